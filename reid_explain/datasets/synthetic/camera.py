"""Six cameras: where people walk in front of them, and what each does to light and detail."""

import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from reid_explain.datasets.synthetic.canvas import HEIGHT, SUPERSAMPLING, WIDTH


@dataclass(frozen=True)
class Camera:
    """One camera.

    ``headings`` are pairs of a heading in degrees (0 faces the camera) and its weight; ``pitch``
    is the tilt in degrees; ``gain`` multiplies red, green, blue; ``exposure`` is in stops;
    ``resolution`` is the sensor's share of the image's 128 pixels; ``blur`` is a radius in
    sensor pixels; ``noise`` is in gray levels; ``quality`` is JPEG's.
    """

    headings: tuple[tuple[int, int], ...]
    pitch: float
    gain: tuple[float, float, float]
    gamma: float
    exposure: float
    resolution: float
    blur: float
    noise: float
    quality: int

    def heading(self, rng: np.random.Generator) -> float:
        """Draw a heading in radians."""
        weighted = [degrees for degrees, weight in self.headings for _ in range(weight)]
        degrees = weighted[int(rng.integers(len(weighted)))]
        return math.radians(degrees + float(rng.uniform(-22, 22)))


CAMERAS = (
    Camera(((0, 6), (180, 2), (50, 2)), 8, (1.0, 1.0, 1.0), 1.0, 0.05, 0.95, 0.2, 3, 88),
    Camera(((180, 6), (0, 2), (-130, 2)), 14, (1.05, 1.0, 0.93), 0.95, 0.05, 0.8, 0.4, 5, 82),
    Camera(((90, 5), (-90, 5)), 6, (0.95, 1.0, 1.06), 1.05, -0.05, 0.75, 0.4, 5, 78),
    Camera(((40, 4), (-40, 4), (140, 2)), 18, (1.0, 1.02, 0.97), 1.06, -0.08, 0.65, 0.5, 6, 74),
    Camera(((140, 4), (-140, 4), (-40, 2)), 12, (0.97, 1.0, 1.03), 0.92, 0.12, 0.85, 0.3, 4, 84),
    Camera(
        ((0, 2), (90, 2), (-90, 2), (180, 2)), 22, (1.04, 0.99, 0.97), 1.02, 0.0, 0.55, 0.5, 6, 68
    ),
)
"""The cameras of every world, numbered from 1."""


@dataclass(frozen=True)
class Exposure:
    """One release of a camera's shutter: all its numbers drawn, so that it can be repeated."""

    table: tuple[int, ...]
    size: tuple[int, int]
    blur: float
    noise: float
    quality: int
    noise_seed: int

    @property
    def spread(self) -> int:
        """Return how far, in pixels, one pixel of the scene reaches (JPEG apart)."""
        return math.ceil((2 + math.ceil(self.blur)) * WIDTH / self.size[0])

    def photograph(self, scene: NDArray[np.uint8]) -> bytes:
        """Return the JPEG file, 128 wide and 256 high, of a lit scene (512, 256, 3)."""
        sharp = (
            Image.fromarray(scene)
            .reduce(SUPERSAMPLING)
            .resize(self.size, Image.Resampling.BILINEAR)
        )
        toned = sharp.filter(ImageFilter.BoxBlur(self.blur)).point(self.table)
        noisy = Image.fromarray(self._grain(np.asarray(toned)))
        photograph = noisy.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
        buffer = io.BytesIO()
        photograph.save(buffer, "JPEG", quality=self.quality)
        return buffer.getvalue()

    def _grain(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Add noise with a triangular density, in integers."""
        rng = np.random.Generator(np.random.PCG64(self.noise_seed))
        draws = rng.integers(0, 256, size=(2, *pixels.shape), dtype=np.uint8).astype(np.int32)
        strength = round(self.noise * 2.45)
        grain = (draws[0] + draws[1] - 255) * strength // 256
        return np.asarray(np.clip(pixels + grain, 0, 255), dtype=np.uint8)


def expose(camera: Camera, severity: float, rng: np.random.Generator) -> Exposure:
    """Draw one exposure; ``severity`` scales what the camera does (0: a perfect camera)."""

    def about(spread: float) -> float:
        return severity * float(rng.uniform(-spread, spread))

    stops = severity * camera.exposure + about(0.22)
    gain = [1 + severity * (g - 1) + about(0.035) for g in camera.gain]
    gamma = 1 + severity * (camera.gamma - 1) + about(0.06)
    lost = severity * (1 - camera.resolution * float(rng.uniform(0.8, 1.05)))
    share = min(max(1 - lost, 0.25), 1.0)
    return Exposure(
        table=tuple(_tone(v, g * math.pow(2, stops), gamma) for g in gain for v in range(256)),
        size=(round(WIDTH * share), round(HEIGHT * share)),
        blur=severity * camera.blur,
        noise=severity * camera.noise,
        quality=round(100 - severity * (100 - camera.quality)),
        noise_seed=int(rng.integers(2**62)),
    )


def _tone(value: int, gain: float, gamma: float) -> int:
    """Return a gray level after gain, gamma, a soft shoulder and haze."""
    light = math.pow(value / 255 * gain, gamma)
    if light > 0.8:
        light = 0.8 + 0.2 * (1 - math.exp(-(light - 0.8) / 0.2))
    return round(255 * (0.03 + 0.94 * min(light, 1.0)))
