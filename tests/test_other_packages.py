"""The functions of docs/other_packages.md: methods of other packages are measured."""

import re
import warnings
from pathlib import Path

import pytest
import torch
from nets import images, small_reid_net

from reid_explain import LayerCAM
from reid_explain.benchmark import Target
from reid_explain.benchmark.methods import Subject, all_methods, find_methods
from reid_explain.inputs import InputSpec

PAGE = Path(__file__).parents[1] / "docs" / "other_packages.md"
PACKAGES = {
    "layer_cam": "pytorch_grad_cam",
    "grad_cam_pp": "torchcam",
    "lrp": "zennit",
    "windows": "xaitk_saliency.impls.gen_descriptor_sim_sal.similarity_scoring",
}


def functions():
    found = {}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S):
        exec(compile(block, PAGE.name, "exec"), found)
    return found


@pytest.fixture
def target():
    return Target(small_reid_net(), spec=InputSpec((64, 32)))


@pytest.mark.parametrize("name", PACKAGES)
def test_the_function_explains_as_a_method(name, target):
    pytest.importorskip(PACKAGES[name], reason=f"{PACKAGES[name]} is not installed")
    (method,) = find_methods([functions()[name]], all_methods()).values()
    assert method.name == name
    x = images(3, (64, 32)).float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = method.on(target)(Subject(x[:2], x[1:]))
    assert found.shape[:2] == (2, 1)
    assert found.isfinite().all()
    assert (found.flatten(1).std(dim=1) > 0).all()
    if name == "layer_cam":
        ours = LayerCAM(target.model, target.layer).attribute(x[:2])
        order = [torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] for a, b in
                 zip(ours, found, strict=True)]  # fmt: skip
        assert min(order) > 0.99
    if name == "windows":
        assert method.needs == ("references",)
        assert not method.by_default


def test_the_page_has_a_function_for_each_package():
    assert PACKAGES.keys() <= functions().keys()
