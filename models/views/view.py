"""One changed copy of every image of a set: which, as a key; and made batch by batch from the pixels at hand."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from regraft.models.views.acquisition import take_again
from regraft.models.views.draw import BRIGHTEST, draw_acquisition, flip_some

Change = Callable[[np.ndarray, int], np.ndarray]
"""From uint8 images ``(B, S, S, 3)`` and the place of the first of them in the set to their changed copies."""

FORMAT = 3
"""Raised when the same view would mean other pixels."""
WEAK = 0.4
"""Strength of every other view, as a share of the full one: near the images as they are, and far from them."""


@dataclass(frozen=True, slots=True)
class View:
    """A view of a set of images, the same pixels whenever it is made anew from them in the same order.

    Attributes:
        number: Of the view; others draw other changes.
        strength: Of the changes of acquisition, 0 to 1; at 0 there is none.
        brightest: Factor on the light that is not exceeded.
        horizontal: Half of the images are mirrored left to right; 1 mirrors all of them.
        vertical: Likewise top to bottom. No image is mirrored both ways unless both are 1.
    """

    number: int
    strength: float = 1.0
    brightest: float = BRIGHTEST
    horizontal: float = 0.0
    vertical: float = 0.0

    def describe(self) -> dict[str, object]:
        """Return everything that the pixels of the view hang on beside the images."""
        return {"format": FORMAT, **asdict(self)}

    def open(self, count: int) -> Change:
        """Draw the changes of ``count`` images and return what makes them."""
        rng = np.random.default_rng([FORMAT, self.number])
        acquisition = draw_acquisition(count, self.strength, rng, self.brightest)
        draw, side = rng.random(count), rng.random(count) < 0.5
        both = self.horizontal == self.vertical == 1
        horizontal = (draw < self.horizontal) & (both | side | (self.vertical == 0))
        vertical = (draw < self.vertical) & (both | ~side | (self.horizontal == 0))

        def change(pixels: np.ndarray, first: int) -> np.ndarray:
            rows = slice(first, first + len(pixels))
            batch = flip_some(torch.from_numpy(np.ascontiguousarray(pixels)), horizontal[rows], vertical[rows])
            if self.strength == 0:
                return batch.numpy()
            noise = torch.Generator().manual_seed(self.number * 2**32 + first)
            return take_again(batch, acquisition.take(rows), noise).numpy()

        return change


def plan_views(count: int, like: View) -> list[View]:
    """Return ``count`` views like one, numbered from 1, full and weak ones in turn."""
    return [
        replace(like, number=number, strength=like.strength * (1.0 if number % 2 else WEAK))
        for number in range(1, count + 1)
    ]


def limit_light(pixels: np.ndarray, rows: np.ndarray) -> float:
    """Return the largest factor on the light of images ``(N, S, S, 3)``, 1.1 to 1.7, that leaves bright ones a picture.

    Args:
        pixels: uint8; every eighth point is looked at.
        rows: Which of them.
    """
    means = np.array([float(np.mean(pixels[row, ::8, ::8])) for row in rows])
    return round(float(np.clip(230 / max(1.0, np.percentile(means, 95)), 1.1, BRIGHTEST)), 3)
