"""Learning curves: error against labelled images, where two of them meet, and what more labels are worth.

Three sizes cannot support every question; each answer may be that it cannot be told.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar, nnls
from scipy.stats import t as student

SLOWEST, FASTEST = 0.1, 2.0
"""Exponents that are considered."""
HORIZON = 10
"""Times the labels at hand that a crossing is looked for within."""
REACH = 3
"""Times the labels at hand up to which a curve may be extended to say what more labels are worth."""
LEAST_STEPS = 30
"""Training steps from scratch below which its curve says more about the budget than about labels."""
UNTOLD = "cannot be told"


@dataclass(frozen=True, slots=True)
class CurveFit:
    """``error(n) = floor + scale * (n / largest) ** -exponent``, of all draws together and, at one exponent, of each.

    Attributes:
        floor: Error that no number of labels removes, 0-1.
        scale: Error at ``largest`` beyond that, 0-1.
        exponent: How fast it falls.
        largest: The largest size that was measured.
        falls: Whether the error falls from the smallest to the largest size beyond what the draws differ by.
        draws: (floor, scale) of each draw.
    """

    floor: float
    scale: float
    exponent: float
    largest: float
    falls: bool
    draws: tuple[tuple[float, float], ...]

    def error(self, n: np.ndarray | float, draw: int | None = None) -> np.ndarray:
        """Return the error at ``n`` labels, of one draw or of all together."""
        floor, scale = (self.floor, self.scale) if draw is None else self.draws[draw]
        return floor + scale * (np.asarray(n, dtype=np.float64) / self.largest) ** -self.exponent


def fit_curve(sizes: np.ndarray, errors: np.ndarray, images: int) -> CurveFit:
    """Fit a power law to the errors of J draws at S sizes.

    Args:
        sizes: Labelled images ``(S,)``, ascending, three at least for a meaningful exponent.
        errors: ``(J, S)`` in 0-1.
        images: Test images that each error was measured on.

    Source: the power law with a floor, Viering and Loog 2022 (arXiv 2103.10948).
    """
    sizes, errors = np.asarray(sizes, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    scaled = sizes / sizes[-1]
    tiled = np.tile(scaled, len(errors))

    def misfit(exponent: float) -> float:
        return _fit_line(tiled, errors.ravel(), exponent)[1]

    grid = np.linspace(SLOWEST, FASTEST, 20)
    start = int(np.argmin([misfit(value) for value in grid]))
    bounds = (grid[max(0, start - 1)], grid[min(len(grid) - 1, start + 1)])
    exponent = float(minimize_scalar(misfit, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x)
    (floor, scale), _ = _fit_line(tiled, errors.ravel(), exponent)
    each = tuple(_fit_line(scaled, row, exponent)[0] for row in errors)
    return CurveFit(floor, scale, exponent, float(sizes[-1]), _falls(errors, images), each)


def _fit_line(n: np.ndarray, errors: np.ndarray, exponent: float) -> tuple[tuple[float, float], float]:
    """Return floor and scale, none below 0, and the misfit."""
    (floor, scale), misfit = nnls(np.stack([np.ones_like(n), n**-exponent], axis=1), errors)
    return (float(floor), float(scale)), float(misfit)


def _falls(errors: np.ndarray, images: int) -> bool:
    """Say whether the error falls from the first to the last size: one-sided t over the draws at 5 %."""
    gains = errors[:, 0] - errors[:, -1]
    spread = max(float(np.std(gains, ddof=1)), 1 / images) / np.sqrt(len(gains))
    return bool(gains.mean() / spread > student.ppf(0.95, len(gains) - 1))


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where learning from scratch needs no pretrained weights any more.

    ``kind``: "reached" at the labels at hand, "at" ``n`` labels (``low`` to ``high`` over the draws), "not within"
    ``n`` labels, or "untold".
    """

    kind: str
    n: int | None
    low: int | None
    high: int | None
    words: str


def find_crossing(transfer: CurveFit, scratch: CurveFit, *, ahead: bool, steps: int) -> Crossing:
    """Return where the curve from scratch comes down to the one of transfer.

    Args:
        transfer: Curve of the pretrained weights.
        scratch: Curve of the same network without.
        ahead: Whether transfer is better at the largest size, beyond noise.
        steps: Of training from scratch at the largest size.
    """
    largest = round(transfer.largest)
    if not ahead:
        return Crossing("reached", None, None, None, f"at {largest} labels transfer is not ahead of scratch any more")
    if steps < LEAST_STEPS:
        return Crossing("untold", None, None, None, f"{UNTOLD}: {steps} training steps from scratch are too few")
    if not scratch.falls:
        words = f"{UNTOLD}: within these budgets the error from scratch does not yet fall with more labels"
        return Crossing("untold", None, None, None, words)
    sizes = np.unique(np.round(np.geomspace(largest, HORIZON * largest, 400)))
    found = [_first_below(transfer, scratch, sizes, draw) for draw in (None, *range(len(scratch.draws)))]
    joint, each = found[0], [n for n in found[1:] if n is not None]
    if joint is None and not each:
        words = f"not within {HORIZON * largest} labels at as much training for each"
        return Crossing("not within", HORIZON * largest, None, None, words)
    if joint is None or len(each) < len(scratch.draws):
        words = f"{UNTOLD}: the draws disagree on whether scratch catches up within {HORIZON * largest} labels"
        return Crossing("untold", None, None, None, words)
    low, high = min(each), max(each)
    return Crossing(
        "at", joint, low, high, f"at about {joint} labels (draws say {low} to {high}) at as much training for each"
    )


def _first_below(transfer: CurveFit, scratch: CurveFit, sizes: np.ndarray, draw: int | None) -> int | None:
    below = np.flatnonzero(scratch.error(sizes, draw) <= transfer.error(sizes, draw))
    return int(sizes[below[0]]) if len(below) else None


@dataclass(frozen=True, slots=True)
class Worth:
    """What ``labels`` more labelled images are worth in balanced accuracy, with an interval over the draws."""

    labels: int
    gain: float | None
    low: float | None
    high: float | None
    words: str


def value_labels(fit: CurveFit, labels: int, confidence: float) -> Worth:
    """Return the fall of the error from the largest size to ``labels`` more, by extending the curve of each draw."""
    largest, draws = fit.largest, len(fit.draws)
    if not fit.falls:
        return Worth(labels, None, None, None, f"{UNTOLD}: the error does not fall beyond what the draws differ by")
    if largest + labels > REACH * largest:
        words = f"{UNTOLD}: {largest:.0f} labels are too few to extend the curve by {labels}"
        return Worth(labels, None, None, None, words)
    gains = [float(fit.error(largest, draw) - fit.error(largest + labels, draw)) for draw in range(draws)]
    half = float(student.ppf((1 + confidence) / 2, draws - 1) * np.std(gains, ddof=1) / np.sqrt(draws))
    gain = float(np.mean(gains))
    low, high = max(0.0, gain - half), min(1.0, gain + half)
    return Worth(labels, gain, low, high, f"{gain:+.3f} [{low:+.3f}, {high:+.3f}] in balanced accuracy")
