"""Streaming: what Score-FAM needs beyond the model's own forward pass."""

import subprocess
import sys
import textwrap

MIB = 2**20

PROGRAM = """
    import resource, sys, torch
    from torch import nn
    from reid_explain import ScoreFAM

    channels, clusters = int(sys.argv[1]), int(sys.argv[2]) or None
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.AvgPool2d(8),
        nn.Conv2d(8, channels, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ).eval()
    x = torch.randn(1, 3, 256, 128)

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(32, 3, 256, 128))
    before = peak()
    ScoreFAM(model, "4", max_scored_channels=clusters).attribute(x, perturbations_per_eval=32)
    print(before, peak())
"""


def extra_memory(channels: int, clusters: int = 0) -> float:
    """Peak memory of Score-FAM above that of the bare model at 32 images of 256 x 128, in MiB."""
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(channels), str(clusters)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    before, after = map(int, result.stdout.split())
    return (after - before) * 1024 / MIB


def test_extra_memory_is_at_most_64_mib_whatever_the_number_of_channels():
    few, many = extra_memory(64), extra_memory(2048)
    print(f"extra memory: {few:.1f} MiB at 64 channels, {many:.1f} MiB at 2048")
    assert few <= 64
    assert many <= 64


def test_clusters_take_no_more():
    few, many = extra_memory(64, clusters=32), extra_memory(2048, clusters=32)
    print(f"with 32 clusters: {few:.1f} MiB at 64 channels, {many:.1f} MiB at 2048")
    assert few <= 64
    assert many <= 64
