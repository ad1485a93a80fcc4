"""Measure what the evaluation of an interpreter costs at the size of a data set, made up.

The default of ``python benchmarks/amd_scale.py`` is Market-1501's full test split.
"""

import resource
import time
from collections.abc import Iterator

import torch
import tyro

from reid_explain.amd import DecomposedRecords, evaluate
from reid_explain.retrieval import Embedded


def main(
    queries: int = 3368,
    gallery: int = 15913,
    attributes: int = 26,
    width: int = 2048,
    identities: int = 750,
    block: int = 512,
) -> None:
    """Compare made-up queries with a made-up gallery, in blocks; print seconds and memory."""
    labels = torch.randint(1, 3, (identities, attributes))

    def blocks(count: int) -> Iterator[DecomposedRecords]:
        for size in [block] * (count // block) + [count % block]:
            parts, people = torch.rand(size, attributes, width), torch.randint(identities, (size,))
            embedded = Embedded(parts.sum(1), people + 1, torch.randint(1, 7, (size,)))
            yield DecomposedRecords(embedded, parts, labels[people], labels[people])

    started = time.perf_counter()
    found = evaluate(blocks(queries), blocks(gallery), torch.rand(attributes))["X-mAP_e"]
    print(
        f"{queries} x {gallery} pairs, {attributes} attributes, width {width}: "
        f"{time.perf_counter() - started:.0f} s, of which the features took a share; "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB at the peak; "
        f"X-mAP_e {found['interpreter']['mean']:.2f} (random order {found['random_order']:.2f})"
    )


if __name__ == "__main__":
    tyro.cli(main)
