"""Images made by formulas, with labels that cost nothing: what the embedded backbone is pretrained on.

A class is one formula with its constants (``data.synthetic.formula_shapes``, ``data.synthetic.formula_textures``), a
sample is one random view of it. Samples are grey fields; colour, crops and lamps are added anew at every pass
(``models.pretraining.views``).
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, Field

from regraft.data.synthetic.formula_fields import Family, Paint, noise
from regraft.data.synthetic.formula_shapes import dead_leaves, iterated_function, marks, radial_contour, strokes
from regraft.data.synthetic.formula_textures import (
    cells,
    grating,
    lattice,
    reaction_diffusion,
    spectral_noise,
    warped_bands,
)

logger = logging.getLogger(__name__)

FAMILIES: dict[str, Family] = {
    "iterated_function": iterated_function,
    "radial_contour": radial_contour,
    "grating": grating,
    "spectral_noise": spectral_noise,
    "warped_bands": warped_bands,
    "cells": cells,
    "dead_leaves": dead_leaves,
    "marks": marks,
    "strokes": strokes,
    "lattice": lattice,
    "reaction_diffusion": reaction_diffusion,
}
"""In label order; a family's place is part of its classes' seeds, so new ones go to the end."""

OBJECTS = ("iterated_function", "radial_contour", "strokes")
"""Families whose samples are things on an empty ground; they are also shown over a texture."""


class FormulaConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What to render. The same values give the same bytes."""

    iterated_function: int = Field(96, ge=0)
    """Classes of fractals of iterated function systems."""
    radial_contour: int = Field(48, ge=0)
    """Classes of nested contours."""
    grating: int = Field(28, ge=0)
    """Classes of wave sums and Gabor patches."""
    spectral_noise: int = Field(40, ge=0)
    """Classes of clouds, grain, streaks and ridges."""
    warped_bands: int = Field(24, ge=0)
    """Classes of marble and wood."""
    cells: int = Field(32, ge=0)
    """Classes of Worley cells."""
    dead_leaves: int = Field(32, ge=0)
    """Classes of opaque shapes dropped on one another."""
    marks: int = Field(40, ge=0)
    """Classes of small marks scattered on a ground."""
    strokes: int = Field(24, ge=0)
    """Classes of curves."""
    lattice: int = Field(24, ge=0)
    """Classes of tilings."""
    reaction_diffusion: int = Field(12, ge=0)
    """Classes of Gray-Scott patterns; each costs a simulation of about a second."""
    samples_per_class: int = Field(40, ge=1)
    """Samples of every class."""
    size_px: int = Field(112, ge=16, le=512)
    """Side of the square samples."""
    seed: int = Field(0, ge=0)
    """Draws the classes and their samples."""

    @property
    def classes(self) -> list[tuple[str, int]]:
        """Return (family, index within the family) of every class, in label order."""
        return [(family, index) for family in FAMILIES for index in range(getattr(self, family))]


@dataclass(frozen=True, slots=True)
class FormulaBank:
    """Rendered samples: ``fields`` uint8 ``(N, S, S)``, ``labels`` int64 ``(N,)``, one class name per label."""

    fields: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]


def render_bank(config: FormulaConfig, *, progress: Callable[[int, int], None] | None = None) -> FormulaBank:
    """Render every sample of every class; samples of one class stand together.

    Args:
        config: Classes per family, samples, size, seed.
        progress: Called with (classes done, classes) after each class.

    Raises:
        ValueError: If no family has a class.
    """
    classes = config.classes
    if not classes:
        raise ValueError("no class to render: every family of FormulaConfig has 0 classes; give one at least one")
    count, size = config.samples_per_class, config.size_px
    fields = np.empty((len(classes) * count, size, size), np.uint8)
    for label, (family, index) in enumerate(classes):
        for sample, field in enumerate(render_class(family, index, count, size, config.seed)):
            fields[label * count + sample] = field
        if progress is not None:
            progress(label + 1, len(classes))
    logger.info("formula bank done classes=%d samples=%d size_px=%d", len(classes), len(fields), size)
    return FormulaBank(
        fields=fields,
        labels=np.repeat(np.arange(len(classes)), count),
        class_names=tuple(f"{family}_{index:03d}" for family, index in classes),
    )


def render_class(family: str, index: int, count: int, size_px: int, seed: int) -> Iterator[np.ndarray]:
    """Yield ``count`` samples uint8 ``(S, S)`` of one class; the class and each sample have their own seed.

    A class is the same whatever other classes are rendered, and sample 3 the same whatever ``count`` is.
    """
    family_index = list(FAMILIES).index(family)
    paint = FAMILIES[family](np.random.default_rng([seed, family_index, index]))
    for sample in range(count):
        rng = np.random.default_rng([seed, family_index, index, sample + 1])
        yield _develop(rng, paint, size_px, over_texture=family in OBJECTS)


def _develop(rng: np.random.Generator, paint: Paint, size_px: int, *, over_texture: bool) -> np.ndarray:
    """Paint one sample, put things on a ground half the time, and stretch the tones to 0..255."""
    field = _stretch(paint(rng, size_px))
    if over_texture and rng.random() < 0.5:
        ground = _stretch(noise(rng, size_px, rng.uniform(1.0, 3.5)))
        share = rng.uniform(0.1, 0.5)
        field = field + share * ground * (1 - field)
    return np.round(255 * np.clip(field, 0, 1)).astype(np.uint8)


def _stretch(field: np.ndarray) -> np.ndarray:
    """Scale the values so that the 0.5th and 99.5th percentiles become 0 and 1, then clip."""
    low, high = np.percentile(field, [0.5, 99.5])
    if high - low < 1e-6:
        low, high = float(field.min()), float(field.max()) + 1e-6
    return np.clip((field - low) / (high - low), 0, 1).astype(np.float32)
