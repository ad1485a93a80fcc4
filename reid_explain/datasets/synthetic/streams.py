"""Random numbers keyed by integers: the same draw on any machine, in any order of calls."""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What a generator is for; two purposes never share numbers."""

    LABELS = 1
    APPEARANCE = 2
    CAMERAS = 3
    TRACK = 4
    POSE = 5
    SCENE = 6
    TEXTURE = 7
    SENSOR = 8
    BYSTANDER = 9


def generator(seed: int, stream: Stream, *key: int) -> np.random.Generator:
    """Return the generator of one purpose and one thing (identity, camera, frame, ...)."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, stream, *key])))
