"""What the families of formula-driven images share: coordinates, coloured noise, and the shape of a family.

A family takes a class's generator (it draws the constants of the formula) and returns ``paint(rng, size_px) -> field``:
one sample, float ``(S, S)``, any finite range. Whatever makes two samples of a class differ comes from the second one.
"""

from collections.abc import Callable

import numpy as np

Field = np.ndarray
Paint = Callable[[np.random.Generator, int], Field]
Family = Callable[[np.random.Generator], Paint]


def grid(size: int) -> tuple[Field, Field]:
    """Return pixel coordinates (x, y) in -1..1, each ``(S, S)``."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    return np.meshgrid(axis, axis)


def turned(x: Field, y: Field, angle: float, zoom: float = 1.0) -> tuple[Field, Field]:
    """Return the coordinates turned by ``angle`` (radians) and divided by ``zoom``."""
    c, s = np.cos(angle) / zoom, np.sin(angle) / zoom
    return c * x - s * y, s * x + c * y


def noise(
    rng: np.random.Generator, size: int, slope: float, stretch: float = 1.0, angle: float = 0.0, low: float = 0.0
) -> Field:
    """Return Gaussian noise with power ~ frequency**-slope, unit variance; ``stretch`` > 1 makes it streaky.

    Args:
        rng: Source of the phases.
        size: Side in pixels.
        slope: Exponent of the power spectrum; 0 is white, 2 cloud-like, 4 smooth.
        stretch: Ratio of the correlation lengths along and across ``angle``.
        angle: Direction of the streaks in radians.
        low: Frequencies below this many cycles per image are damped.
    """
    fy = np.fft.fftfreq(size)[:, None] * size
    fx = np.fft.rfftfreq(size)[None, :] * size
    along, across = fx * np.cos(angle) + fy * np.sin(angle), fy * np.cos(angle) - fx * np.sin(angle)
    radius = np.sqrt((along * stretch) ** 2 + across**2) + 1.0
    gain = radius ** (-slope / 2) * (1 - np.exp(-((radius / (low + 0.3)) ** 2)))
    spectrum = np.fft.rfft2(rng.standard_normal((size, size), dtype=np.float32)) * gain
    field = np.fft.irfft2(spectrum, s=(size, size)).astype(np.float32)
    return (field - field.mean()) / (field.std() + 1e-6)
