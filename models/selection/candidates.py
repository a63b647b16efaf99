"""Before anything is compared: who may compete, how images become square, which images are looked at."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from regraft.models.backbones.licences import object_to_licence
from regraft.models.backbones.network import BackboneInput
from regraft.serving.decoding.preprocess import PreprocessSpec
from regraft.serving.decoding.value_range import ValueRange

logger = logging.getLogger(__name__)

Fit = Literal["auto", "squash", "crop", "letterbox"]
SquareFit = Literal["squash", "crop", "letterbox"]
NEAR_SQUARE = 1.15
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos")


class SelectionError(ValueError):
    """There is nothing to select from, or nothing to select by: the limits or the images leave none."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class AspectProfile:
    """How far the images are from square, and what bringing them to one costs.

    Attributes:
        median: Longer side over shorter, the median image.
        near_square: Share of images whose longer side is at most 1.15 times the shorter, 0-1.
        cropped: Share of all pixels that the largest centred square would leave out, 0-1.
    """

    median: float
    near_square: float
    cropped: float

    def describe(self) -> str:
        """Return the profile in words."""
        return (
            f"the median image is {self.median:.2f} times as long as wide, {self.near_square:.0%} are nearly square; "
            f"a centre crop would remove {self.cropped:.1%} of all pixels"
        )


def profile_aspects(sizes: np.ndarray) -> AspectProfile:
    """Return the aspect profile of images of width and height ``sizes`` ``(N, 2)`` in px."""
    short, long = sizes.min(axis=1).clip(1), sizes.max(axis=1).clip(1)
    aspects = long / short
    areas = (short * long).astype(np.float64)
    return AspectProfile(
        float(np.median(aspects)),
        float(np.mean(aspects <= NEAR_SQUARE)),
        float(1 - (short.astype(np.float64) ** 2).sum() / areas.sum()),
    )


def list_fits(fit: Fit, profile: AspectProfile) -> list[SquareFit]:
    """Return the ways to a square worth comparing: the one asked for, or one if nine in ten are nearly square."""
    if fit != "auto":
        return [fit]
    return ["squash"] if profile.near_square >= 0.9 else ["squash", "crop", "letterbox"]


def describe_preprocess(wanted: BackboneInput, fit: SquareFit, value_range: ValueRange | None = None) -> PreprocessSpec:
    """Return the preprocessing a backbone wants, for images whose deep files fill ``value_range``.

    The whole shorter side is kept when cropping: a defect at the border must not be cut away.
    """
    interpolation = wanted.interpolation if wanted.interpolation in INTERPOLATIONS else "bicubic"
    return PreprocessSpec(
        size_px=wanted.size_px, fit=fit, interpolation=interpolation, crop_share=1.0, value_range=value_range
    )


def sample_rows(labels: np.ndarray, rows: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Return at most ``limit`` of ``rows``, sorted, as equally spread over the classes as they allow."""
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(np.sort(rows))
    # The k-th image of every class comes before the (k+1)-th of any.
    ranks = np.empty(len(shuffled), dtype=np.int64)
    for label in np.unique(labels[rows]):
        members = np.flatnonzero(labels[shuffled] == label)
        ranks[members] = np.arange(len(members))
    return np.sort(shuffled[np.argsort(ranks, kind="stable")][:limit])


def find_objection(
    licence: str,
    parameters: int,
    latency_ms: float | None,
    *,
    forbidden: Sequence[str],
    max_parameters: int | None,
    max_latency_ms: float | None,
) -> str | None:
    """Return why a candidate may not compete, or None.

    Args:
        licence: As its config states it.
        parameters: Of the body.
        latency_ms: One image on this machine; None where it was not measured.
        forbidden: Patterns of licences, shell style.
        max_parameters: Most parameters.
        max_latency_ms: Most milliseconds an image.
    """
    if (objection := object_to_licence(licence, forbidden)) is not None:
        return objection
    if max_parameters is not None and parameters > max_parameters:
        return f"it has {parameters:,} parameters, more than the {max_parameters:,} of select.max_parameters"
    if max_latency_ms is not None and latency_ms is not None and latency_ms > max_latency_ms:
        return f"it takes {latency_ms:.3g} ms an image here, more than the {max_latency_ms:g} of select.max_latency_ms"
    return None


def explain_nobody(objections: Mapping[str, str]) -> str:
    """Return the message for a field in which every candidate was refused."""
    listed = "; ".join(f"{name}: {why}" for name, why in sorted(objections.items()))
    return f"no candidate may compete ({listed}). Loosen the limits of select, or offer other backbones."
