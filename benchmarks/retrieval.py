"""Measure what retrieval costs at the size of a large gallery, with made-up embeddings.

Run it as ``python benchmarks/retrieval.py --gallery 1000000 --queries 100``.
"""

import argparse
import resource
import time

import torch

from reid_explain.metrics.embedding import Embedded
from reid_explain.metrics.retrieval import match_ranks, summarize

MIB = 2**20


def main() -> None:
    """Rank made-up queries in a made-up gallery; print seconds and memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gallery", type=int, default=1_000_000, help="images")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--width", type=int, default=512, help="of an embedding")
    parser.add_argument("--identities", type=int, default=10_000)
    settings = parser.parse_args()
    generator = torch.Generator().manual_seed(0)

    def made_up(count: int) -> Embedded:
        return Embedded(
            torch.randn(count, settings.width, generator=generator),
            torch.randint(1, settings.identities + 1, (count,), generator=generator),
            torch.randint(1, 7, (count,), generator=generator),
        )

    query, gallery = made_up(settings.queries), made_up(settings.gallery)
    before = peak()
    started = time.perf_counter()
    summary = summarize(match_ranks(query, gallery))
    seconds = time.perf_counter() - started
    print(
        f"{settings.queries} queries, gallery {settings.gallery} x {settings.width}: "
        f"{seconds:.1f} s, {peak() - before:.0f} MiB beyond the embeddings "
        f"({gallery.embeddings.nbytes / MIB:.0f} MiB); mAP of chance {summary.mean_ap:.3f} %"
    )


def peak() -> float:
    """Return this process's peak memory in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB


if __name__ == "__main__":
    main()
