"""The changes that a version is judged under: what happens to a line, each with one fixed strength."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch

from regraft.models.views.acquisition import Acquisition, take_again


@dataclass(frozen=True, slots=True)
class Shift:
    """One change that all images undergo alike.

    Attributes:
        name: As it is said to people, in few words that also fit after "with" or "under".
        describes: What it does to an image, in figures.
        changes: Fields of ``Acquisition`` that are not as they were.
    """

    name: str
    describes: str
    changes: Mapping[str, float]

    def apply(self, pixels: np.ndarray, seed: Sequence[int]) -> np.ndarray:
        """Return uint8 images ``(B, S, S, 3)`` as they would have come; equal arguments give equal bytes.

        Args:
            pixels: uint8 ``(B, S, S, 3)``.
            seed: Of the sensor's noise, integers of 0 or more.
        """
        batch = torch.from_numpy(np.ascontiguousarray(pixels))
        acquisition = Acquisition.unchanged(len(pixels)).with_changes(**self.changes)
        state = int(np.random.SeedSequence(seed).generate_state(1)[0])
        return take_again(batch, acquisition, torch.Generator().manual_seed(state)).numpy()


def shift(name: str, describes: str, **changes: float) -> Shift:
    """Return a shift whose ``changes`` cannot be altered."""
    return Shift(name, describes, MappingProxyType(changes))


SHIFTS = (
    shift("half the light", "every value halved", light=0.5),
    shift("half as much light again", "every value times 1.5", light=1.5),
    shift("a warm lamp", "red 25 % up, blue 25 % down", warmth=0.25),
    shift("light from one side", "130 % of it on the left, 70 % on the right", fall=0.6),
    shift("half the contrast", "half the distance from the mean", contrast=0.5),
    shift("the lens out of focus", "blurred by 1 % of the side", blur=0.01),
    shift("a noisy sensor", "noise of 6 % of the range", noise=0.06),
    shift("the camera nearer", "everything 15 % larger", zoom=1.15),
    shift("strong compression", "JPEG, quality 20", quality=20),
    shift("an old lamp", "60 % of the light, reddish, from the left", light=0.6, warmth=0.15, fall=0.4),
    shift(
        "a cheap camera",
        "blur 0.6 %, noise 3 %, dark tones and corners",
        blur=0.006,
        noise=0.03,
        gamma=1.3,
        vignette=0.25,
    ),
)
"""In the order in which they are listed in the metrics."""
