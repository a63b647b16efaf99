"""The strip itself, before any lamp or camera: roll texture and six kinds of surface defect as fields of reflectance.

Every drawing is a float32 field of shape ``(side, side)`` in which -1 is a full-contrast dark mark and +1 a bright one.
``regraft.data.synthetic.steel`` turns the strip into a photograph.
"""

from collections.abc import Callable

import numpy as np
from pydantic import BaseModel, Field
from scipy import ndimage
from scipy.special import expit

NOMINAL_SIDE_PX = 128
"""Lengths in this module are in pixels of a field of this side and scale with the side asked for."""


class Roll(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What the rolls leave on sound steel."""

    texture_strength: float = Field(0.04, ge=0, le=0.5)
    """Standard deviation of the texture, in reflectance (0-1)."""
    period_px: float = Field(22.0, ge=4, le=256)
    """Distance between two chatter marks along the rolling direction, in pixels of a 128 px field."""
    orientation_deg: float = Field(0.0, ge=-90, le=90)
    """Angle of the rolling direction against the vertical of the image."""
    brushedness: float = Field(0.65, ge=0, le=1)
    """Share of the texture that is drawn out along the rolling direction; the rest is grain."""


class Defects(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How much of a defect an image shows."""

    density: float = Field(1.0, gt=0, le=5)
    """Multiplies the number of marks or the area they cover; 1 is the default line."""
    size: float = Field(1.0, gt=0.1, le=4)
    """Multiplies the extent of a mark; 1 is the default line. Every image varies around it."""
    contrast: float = Field(0.32, gt=0, le=1)
    """Reflectance difference of a full-contrast mark. Every image shows a part of it, down to a third."""
    second_share: float = Field(0.35, ge=0, le=1)
    """Share of images that also carry a fainter defect of another class, which makes the line hard to judge."""


def draw_noise(rng: np.random.Generator, side: int, along_px: float, across_px: float) -> np.ndarray:
    """Return smooth noise of unit variance whose grains measure about ``along_px`` x ``across_px`` (rows x columns)."""
    scale = side / NOMINAL_SIDE_PX
    noise = rng.standard_normal((side, side), dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, (along_px * scale, across_px * scale), mode="wrap", truncate=3.0)
    return noise / max(float(noise.std()), 1e-6)


def draw_texture(rng: np.random.Generator, side: int, roll: Roll) -> np.ndarray:
    """Return the texture of sound steel, in reflectance around 0: brushing, grain, chatter marks and a dull stain."""
    rows = np.arange(side, dtype=np.float32)[:, None]
    phase = rng.uniform(0, 2 * np.pi)
    chatter = np.sin(2 * np.pi * rows * NOMINAL_SIDE_PX / (roll.period_px * side) + phase)
    brushed = draw_noise(rng, side, 14.0, 0.6) + 0.5 * chatter.astype(np.float32)
    grain = draw_noise(rng, side, 0.7, 0.7)
    texture = roll.brushedness * brushed + (1 - roll.brushedness) * grain
    stain = draw_noise(rng, side, 24.0, 16.0) * rng.uniform(0.1, 0.7)
    angle = roll.orientation_deg + rng.normal(0, 2.0)
    strength = roll.texture_strength * rng.uniform(0.6, 1.4)
    return ndimage.rotate(texture + stain, angle, order=1, reshape=False, mode="mirror") * strength


def cover_region(rng: np.random.Generator, side: int, share: float) -> np.ndarray:
    """Return a soft mask (0-1) of one or several blobs that cover about ``share`` of the field."""
    noise = draw_noise(rng, side, 18.0, 18.0)
    edge = np.quantile(noise, 1 - min(share, 0.98))
    return expit((noise - edge) * 5.0)


def draw_cracks(rng: np.random.Generator, side: int, grain_px: tuple[float, float], width_px: float) -> np.ndarray:
    """Return thin dark lines (0 to -1) along the zero crossings of smooth noise."""
    noise = draw_noise(rng, side, *grain_px)
    down, right = np.gradient(noise)
    distance = np.abs(noise) / (np.hypot(down, right) + 0.02)  # px of the field, to first order
    width = width_px * side / NOMINAL_SIDE_PX
    return -np.exp(-((distance / width) ** 2))


def draw_crazing(rng: np.random.Generator, side: int, size: float, density: float) -> np.ndarray:
    """Return a net of fine dark cracks."""
    grain = (2.2 * size, 4.2 * size)
    net = np.minimum(draw_cracks(rng, side, grain, 0.8), draw_cracks(rng, side, grain[::-1], 0.7) * 0.7)
    return net * cover_region(rng, side, rng.uniform(0.4, 0.95) * min(density, 1.0))


def draw_streak(rng: np.random.Generator, side: int, length: float, width: float, angle_deg: float) -> np.ndarray:
    """Return one straight mark (0 to 1) through a random point; lengths in pixels of a 128 px field."""
    scale = side / NOMINAL_SIDE_PX
    row, column = rng.uniform(0.1, 0.9, 2) * side
    angle = np.deg2rad(angle_deg)
    rows = np.arange(side, dtype=np.float32)[:, None] - np.float32(row)
    columns = np.arange(side, dtype=np.float32)[None, :] - np.float32(column)
    along = rows * np.float32(np.cos(angle)) + columns * np.float32(np.sin(angle))
    across = columns * np.float32(np.cos(angle)) - rows * np.float32(np.sin(angle))
    ends = expit((np.float32(length * scale / 2) - np.abs(along)) / np.float32(1.5 * scale))
    return ends * np.exp(-((across / np.float32(width * scale)) ** 2))


def draw_inclusion(rng: np.random.Generator, side: int, size: float, density: float) -> np.ndarray:
    """Return a few ragged dark streaks along the rolling direction."""
    field = np.zeros((side, side), np.float32)
    for _ in range(1 + rng.poisson(1.6 * density)):
        length, width = rng.uniform(9, 46) * size, rng.uniform(1.2, 3.6) * size
        field = np.maximum(field, draw_streak(rng, side, length, width, rng.normal(0, 5)))
    ragged = 0.75 + 0.35 * draw_noise(rng, side, 3.0, 1.0)
    return -field * np.clip(ragged, 0, 1.3)


def draw_patches(rng: np.random.Generator, side: int, size: float, density: float) -> np.ndarray:
    """Return large flat areas of another tone with a ragged border, darker in three images of four."""
    noise = draw_noise(rng, side, 13.0 * size, 10.0 * size) + 0.22 * draw_noise(rng, side, 2.0, 2.0)
    edge = np.quantile(noise, 1 - np.clip(rng.uniform(0.08, 0.4) * density, 0.02, 0.9))
    area = expit((noise - edge) * 9.0)
    return area * (-0.7 if rng.random() < 0.75 else 0.6)


def draw_pitted_surface(rng: np.random.Generator, side: int, size: float, density: float) -> np.ndarray:
    """Return many small dark pits, in clusters, each with a lit rim on the side away from the lamp."""
    where = cover_region(rng, side, rng.uniform(0.3, 0.9)).ravel().astype(np.float64)
    field = np.zeros((side, side), np.float32)
    for radius in (0.9, 1.6, 2.6):
        sigma = radius * size * side / NOMINAL_SIDE_PX
        points = np.zeros(side * side, np.float32)
        count = rng.poisson(90 * density / radius**2)
        points[rng.choice(side * side, count, p=where / where.sum())] = 1.0
        pits = ndimage.gaussian_filter(points.reshape(side, side), sigma, mode="wrap", truncate=3.0)
        field += pits * np.float32(2 * np.pi * sigma**2)
    rim = np.roll(field, round(2 * size * side / NOMINAL_SIDE_PX), axis=0)
    return np.clip(0.45 * rim - field, -1.2, 0.6)


def draw_rolled_in_scale(rng: np.random.Generator, side: int, size: float, density: float) -> np.ndarray:
    """Return many mid-sized irregular blots, drawn out along the rolling direction."""
    noise = draw_noise(rng, side, 4.2 * size, 2.4 * size) + 0.3 * draw_noise(rng, side, 1.0, 1.0)
    edge = np.quantile(noise, 1 - np.clip(rng.uniform(0.12, 0.3) * density, 0.02, 0.9))
    blots = expit((noise - edge) * 6.0)
    return -blots * cover_region(rng, side, rng.uniform(0.35, 0.9))


def draw_scratches(rng: np.random.Generator, side: int, size: float, density: float) -> np.ndarray:
    """Return one to several long thin lines, bright in three images of four, at a common slant."""
    field = np.zeros((side, side), np.float32)
    slant = rng.normal(0, 9) if rng.random() < 0.7 else rng.uniform(-90, 90)
    for _ in range(1 + rng.poisson(1.5 * density)):
        length, width = rng.uniform(45, 160) * size, rng.uniform(0.7, 1.5) * size
        field = np.maximum(field, draw_streak(rng, side, length, width, slant + rng.normal(0, 4)))
    broken = np.clip(0.85 + 0.4 * draw_noise(rng, side, 8.0, 8.0), 0, 1.3)
    return field * broken * (1.0 if rng.random() < 0.75 else -0.8)


DRAWINGS: dict[str, Callable[[np.random.Generator, int, float, float], np.ndarray]] = {
    "crazing": draw_crazing,
    "inclusion": draw_inclusion,
    "patches": draw_patches,
    "pitted_surface": draw_pitted_surface,
    "rolled_in_scale": draw_rolled_in_scale,
    "scratches": draw_scratches,
}


def draw_defect(rng: np.random.Generator, side: int, label: str, defects: Defects) -> np.ndarray:
    """Return the marks of ``label`` and, in some images, a fainter second defect, in reflectance around 0."""
    size = defects.size * float(np.exp(rng.normal(0, 0.22)))
    contrast = defects.contrast * rng.uniform(0.35, 1.0)
    field = DRAWINGS[label](rng, side, size, defects.density) * contrast
    if rng.random() < defects.second_share:
        others = [name for name in DRAWINGS if name != label]
        other = DRAWINGS[others[rng.integers(len(others))]]
        field = field + other(rng, side, defects.size, defects.density) * contrast * rng.uniform(0.2, 0.55)
    return field.astype(np.float32)
