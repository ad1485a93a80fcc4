"""Real data: where it lies, and a reason when it does not."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("repeatable", derandomize=True)
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
