"""Streaming: what Score-FAM needs beyond the model's own forward pass."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROGRAM = """
    import os, sys, torch
    from torch import nn
    from reid_explain import ScoreFAM

    torch.set_num_threads(1)
    for words in sys.argv[1:]:  # in a child each: what one case leaves is not there in the next
        sys.stdout.flush()
        if not os.fork():
            break
        assert os.wait()[1] == 0
    else:
        sys.exit()
    channels, scored = (int(word) or None for word in words.split(","))
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.AvgPool2d(8),
        nn.Conv2d(8, channels, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ).eval()
    x = torch.randn(1, 3, 256, 128)

    def bare():
        images = x.expand(16, -1, -1, -1).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            model(images)

    def explained():
        ScoreFAM(model, "4", max_scored_channels=scored).attribute(x, perturbations_per_eval=16)

    def resident(field):
        lines = open("/proc/self/status").read().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024

    def extra(function):
        open("/proc/self/clear_refs", "w").write("5")
        before = resident("VmRSS")
        function()
        return resident("VmHWM") - before

    for function in (bare, explained):
        function()  # code and buffers that stay
    print(words, extra(explained) - extra(bare))
"""
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
"""What is freed goes back at once: without it, leftovers of one call hide the needs of the next."""
CASES = ("64,0", "512,0", "2048,32")
"""Channels, and how many are scored; 0 is all."""


@pytest.fixture(scope="module")
def extra_memory():
    """Peak memory of Score-FAM above that of the bare model at 16 images of 256 x 128, in MiB."""
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), *CASES]
    run = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | ALLOCATOR
    )
    return {case: float(found) for case, found in map(str.split, run.stdout.splitlines())}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux counts peak memory")
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_extra_memory_is_at_most_16_mib(case, extra_memory):
    found = extra_memory[case]
    print(f"extra memory: {found:.1f} MiB with channels, scored = {case}")
    assert found <= 16
