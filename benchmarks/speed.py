"""Measure what Score-FAM costs, beside its peer and its floor, and how far shortcuts are off.

    python benchmarks/speed.py
    python benchmarks/speed.py --root MARKET --weights OSNET_X0_25_FILE
    python benchmarks/speed.py --device cuda
    python benchmarks/speed.py --quick

Everything runs in one process, on the same model and images, the ways in turns; a figure is the
median over the turns. What is measured:

time       seconds of an explanation: pytorch-grad-cam's ScoreCAM with a cosine target (peer), the
           bare forward passes that scoring cannot avoid (floor), ScoreFAM exact in float32 and in
           bfloat16, and with clusters. The peer, the floor and the exact ways take a fixed number
           of maps (--maps) and are reckoned up to what they pass for all channels; clusters are
           measured whole.
growth     seconds with the number of channels, the image size and the batch
gradient   GradFAM, GradRAM and CGRAM over one forward pass, and one forward and backward pass
           through the layers above theirs; and per image of a batch
descent    seconds of ExtremalFAM, beside the forward passes that exact ScoreFAM cannot avoid
agreement  on trained networks, the error against the exact map in float32: largest difference of
           the maps stretched to [0, 1], Spearman correlation, difference in AS Drop and AP Drop;
           and how other ways to group channels compare

The trained networks are the shipped one, OSNet x0.25 if --root and --weights are given, and
EfficientNet-Lite0 if its weights are installed (the benchmarks extra). The others are untrained:
what a forward pass costs does not depend on weights.

Output: tables on the screen, results.json, time.csv, agreement.csv, speed.png. A run that was
interrupted goes on with --resume.
"""

import argparse
import sys
from pathlib import Path

from command_line import one_line_errors
from run_folder import Rows, claim, fixed_settings, write_json
from speed_agreement import AGREEMENT, compare
from speed_report import as_tables, draw, summarise
from speed_subjects import trained
from speed_time import PARTS, TIME, take_turns
from targets import open_device
from tqdm.auto import tqdm

AGREES = "agreement"
BACKBONES = ("resnet50", "osnet_x0_25", "vit_small")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--root", type=Path, help="the folder of Market-1501")
    add("--weights", type=Path, help="OSNet x0.25 trained on it")
    add("--backbones", type=lambda names: names.split(","), default=",".join(BACKBONES))
    add("--parts", type=lambda names: names.split(","), default=",".join((*PARTS, AGREES)))
    add("--maps", type=int, default=64, help="channels of the peer, the floor and the exact ways")
    add("--repeats", type=int, default=5, help="turns")
    add("--samples", type=int, default=64, help="images of each trained network")
    add("--grouped", type=int, default=8, help="of these, images for the comparison of groupings")
    add("--workers", type=int, default=0, help="processes that load images")
    add("--seed", type=int, default=0, help="of every random choice")
    add("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    add("--quick", action="store_true", help="small and in a minute; the figures mean nothing")
    add("--output", type=Path, default=Path("outputs", Path(sys.argv[0]).stem), help="a folder")
    add("--resume", action="store_true", help="go on with the run in --output")
    settings = parser.parse_args(arguments)
    if settings.quick:
        settings.backbones = ["osnet_x0_25"]
        settings.maps, settings.repeats, settings.samples, settings.grouped = 8, 2, 1, 1
    return settings


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    settings = parse_arguments(arguments)
    with one_line_errors("speed.py"):
        run(settings)


def run(settings: argparse.Namespace) -> None:
    """Measure, row by row, and report."""
    device = open_device(settings.device)
    claim(settings.output, fixed_settings(settings), resume=settings.resume)
    times = Rows(
        settings.output / "time.csv",
        key=("part", "network", "setting", "way", "turn"),
        figures=TIME,
    )
    for part, measured in PARTS.items():
        if part not in settings.parts:
            continue
        for name in settings.backbones:
            for setting, ways in measured(name, settings, device):
                key = (part, name, setting)
                take_turns(times, key, ways, settings.repeats, device)
    agreement = Rows(
        settings.output / "agreement.csv", key=("network", "image", "way"), figures=AGREEMENT
    )
    for name, network, samples in trained(settings) if AGREES in settings.parts else ():
        for number, sample in enumerate(tqdm(samples, desc=name, unit="image")):
            compare(agreement, name, network, sample, settings.device, number < settings.grouped)
    results = summarise(times, agreement, settings)
    write_json(settings.output / "results.json", results)
    figure = draw(results)
    if figure is not None:
        figure.savefig(settings.output / "speed.png", dpi=150)
    print(as_tables(results))


if __name__ == "__main__":
    main()
