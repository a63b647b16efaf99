"""Acquisitions and poses drawn at random: each image another, each change in half of them."""

import numpy as np
import torch
from torch import Tensor

from regraft.models.views.acquisition import Acquisition

LARGEST = {
    "warmth": 0.3,
    "gamma": 0.7,
    "contrast": 0.5,
    "fall": 0.6,
    "vignette": 0.3,
    "blur": 0.012,
    "noise": 0.06,
    "zoom": 0.15,
}
"""Of each change at strength 1; gamma, contrast and zoom are on a natural logarithm."""
DARKEST, BRIGHTEST = 0.35, 1.7
"""Factors on the light at strength 1."""
WORST_FILE, BEST_FILE = 15, 90
"""Quality of the JPEG file at strength 1, and what it is drawn up to."""


def draw_acquisition(
    count: int, strength: float, rng: np.random.Generator, brightest: float = BRIGHTEST
) -> Acquisition:
    """Return the acquisition of ``count`` images, each of its changes in a random half of them.

    Args:
        count: Images.
        strength: Share of the largest changes, 0 to 1.
        rng: Decides everything.
        brightest: Factor on the light at strength 1 that must not be exceeded: lower where the images are bright
            already, since what is blown out is no view of anything.
    """

    def some() -> np.ndarray:
        return rng.random(count) < 0.5

    def even(reach: float) -> np.ndarray:
        return rng.uniform(-reach, reach, count) * some()

    def upwards(reach: float) -> np.ndarray:
        return rng.uniform(0, reach, count) * some()

    reach = {name: value * strength for name, value in LARGEST.items()}
    worst = BEST_FILE - (BEST_FILE - WORST_FILE) * strength
    low, high = np.log(DARKEST) * strength, np.log(max(brightest, 1.0)) * strength
    drawn = {
        "light": np.exp(rng.uniform(low, high, count) * some()),
        "warmth": even(reach["warmth"]),
        "gamma": np.exp(even(reach["gamma"])),
        "contrast": np.exp(-upwards(reach["contrast"])),
        "fall": upwards(reach["fall"]),
        "fall_angle": rng.uniform(0, 2 * np.pi, count),
        "vignette": upwards(reach["vignette"]),
        "blur": upwards(reach["blur"]),
        "noise": upwards(reach["noise"]),
        "zoom": np.exp(even(reach["zoom"])),
        "quality": np.where(some(), rng.uniform(worst, BEST_FILE, count), 0),
    }
    return Acquisition(**{name: values.astype(np.float32) for name, values in drawn.items()})


def flip_some(pixels: Tensor, horizontal: np.ndarray, vertical: np.ndarray) -> Tensor:
    """Return images ``(B, S, S, 3)``, mirrored left to right and top to bottom where the arrays ``(B,)`` say so."""
    if not horizontal.any() and not vertical.any():
        return pixels
    flipped = pixels.clone()
    for chosen, axis in ((horizontal, 2), (vertical, 1)):
        rows = torch.from_numpy(np.flatnonzero(chosen)).to(pixels.device)
        flipped[rows] = flipped[rows].flip(axis)
    return flipped
