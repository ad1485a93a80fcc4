"""Drawn worlds for tests."""

from functools import cache

from reid_explain.datasets import SyntheticReID


def drawn_once(*seed: int, **settings: int) -> SyntheticReID:
    """Return a world that keeps what it has drawn: drawing takes longer than most tests."""
    world = SyntheticReID(*seed, **settings)
    for name in ("load", "render", "counterfactual"):
        setattr(world, name, cache(getattr(world, name)))
    return world
