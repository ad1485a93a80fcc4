"""Simulate how often 95 % intervals cover the truth, over identities and over queries.

A value is an effect of its identity plus noise of the same size. Run it as
``python benchmarks/coverage.py``; it takes some ten minutes.
"""

import numpy as np
import tyro
from scipy.stats import t

from reid_explain.statistics import studentized

VALUES = {
    "normal": lambda x: x,
    "drop": lambda x: (0.25 * x).clip(0),  # Half of the queries lose nothing.
    "rare drop": lambda x: (0.25 * x - 0.25).clip(0),  # Three in four lose nothing.
    "log-normal": lambda x: np.exp(0.6 * x),
}
MIXED = "1 to 6"
BLOCK = 500


def covered(generator, kind: str, identities: int, queries: int | str, truth: float) -> np.ndarray:
    """Return whether intervals over identities and over queries hold the truth, (2, BLOCK)."""
    most = 6 if queries == MIXED else queries
    fewest = 1 if queries == MIXED else queries
    counts = generator.integers(fewest, most, (identities, BLOCK, 1), endpoint=True)
    exist = np.arange(most) < counts
    effect, noise = (generator.standard_normal((identities, BLOCK, n)) for n in (1, most))
    values = VALUES[kind](effect + noise)
    _, low, high = studentized((values * exist).sum(2), counts[..., 0].astype(float))
    total = counts.sum((0, 2))
    mean = (values * exist).sum((0, 2)) / total
    square = ((values - mean[:, None]) ** 2 * exist).sum((0, 2)) / (total - 1)
    half = t.ppf(0.975, total - 1) * np.sqrt(square / total)
    return np.stack([(low <= truth) & (truth <= high), abs(mean - truth) <= half])


def main(samples: int = 4000, seed: int = 0) -> None:
    """Print the coverage for each kind of values, number of identities and of queries of each.

    Args:
        samples: simulated data sets per cell, in blocks of 500.
        seed: for them.
    """
    generator = np.random.default_rng(seed)
    error = 100 * (0.95 * 0.05 / samples) ** 0.5
    print(f"{samples} samples per cell: 95.0 has a standard error of {error:.2f} points")
    print("values      identities  queries  over identities  over queries")
    for kind, of in VALUES.items():
        truth = of(2**0.5 * generator.standard_normal(10_000_000)).mean()
        for identities in (25, 50, 100):
            for queries in (1, 2, 3, 4, 5, 6, MIXED):
                cell = kind, identities, queries, truth
                blocks = [covered(generator, *cell) for _ in range(max(1, samples // BLOCK))]
                own, naive = 100 * np.concatenate(blocks, axis=1).mean(1)
                print(
                    f"{kind:<12}{identities:>10}{queries!s:>9}{own:>17.1f}{naive:>14.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    tyro.cli(main)
