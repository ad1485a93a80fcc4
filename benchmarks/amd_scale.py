"""Measure what the evaluation of an interpreter costs at the size of a data set, made up.

Run it as ``python benchmarks/amd_scale.py``; the default is Market-1501's full test split.
"""

import argparse
import resource
import time
from collections.abc import Iterator

import torch

from reid_explain.amd import DecomposedRecords, evaluate
from reid_explain.retrieval import Embedded


def main() -> None:
    """Compare made-up queries with a made-up gallery; print seconds and memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=3368)
    parser.add_argument("--gallery", type=int, default=15913)
    parser.add_argument("--attributes", type=int, default=26)
    parser.add_argument("--width", type=int, default=2048, help="of an embedding")
    parser.add_argument("--identities", type=int, default=750)
    parser.add_argument("--block", type=int, default=512, help="images at a time")
    settings = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(1, 3, (settings.identities, settings.attributes), generator=generator)

    def made_up(count: int) -> DecomposedRecords:
        shape = (count, settings.attributes, settings.width)
        identities = torch.randint(settings.identities, (count,), generator=generator)
        cameras = torch.randint(1, 7, (count,), generator=generator)
        parts = torch.rand(shape, generator=generator)
        known = labels[identities]
        return DecomposedRecords(
            Embedded(parts.sum(1), identities + 1, cameras), parts, known, known
        )

    def blocks(count: int) -> Iterator[DecomposedRecords]:
        for start in range(0, count, settings.block):
            yield made_up(min(settings.block, count - start))

    started = time.perf_counter()
    found = evaluate(
        blocks(settings.queries), blocks(settings.gallery), torch.rand(settings.attributes)
    )
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{settings.queries} x {settings.gallery} pairs, {settings.attributes} attributes, "
        f"width {settings.width}: {seconds:.0f} s, of which the features took a share; "
        f"{peak:.0f} MiB at the peak; X-mAP_e {found.exclusive.interpreter.mean:.2f} "
        f"(random order {found.exclusive.random_order:.2f})"
    )


if __name__ == "__main__":
    main()
