"""Real data: where it lies, and a reason when it does not."""

import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores: threads of theirs would wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

# The same examples in every run; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore")
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

SHARED = Path(os.environ.get("REID_EXPLAIN_DATA", Path(__file__).parents[2] / "shared"))


def present(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path} is absent; REID_EXPLAIN_DATA names the folder that has it")
    return path


@pytest.fixture(scope="session")
def market_root() -> Path:
    return present(SHARED / "data" / "Market-1501")


@pytest.fixture(scope="session")
def osnet_weights() -> Path:
    return present(SHARED / "weights" / "osnet_x0_25_market1501.pth")


@pytest.fixture(scope="session")
def small_files(tmp_path_factory) -> Path:
    """market/, a data set of few people in Market-1501's form, and model.json, a small network."""
    from nets import SMALL, small_reid_net  # here: the process that hands out tests needs no torch

    from reid_explain.datasets import SyntheticReID
    from reid_explain.models import save_trained

    root = tmp_path_factory.mktemp("files")
    SyntheticReID(train_identities=2, test_identities=5, distractors=6).export(root / "market")
    save_trained(small_reid_net(), root / "model.json", SMALL)
    return root
