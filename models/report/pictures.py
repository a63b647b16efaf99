"""Which images a report shows, and how they get into it: small JPEGs inside the page itself."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

THUMBNAIL_PX = 112
JPEG_QUALITY = 82


@dataclass(frozen=True, slots=True)
class Picture:
    """One image; ``predicted`` and ``probability`` (0-1, of the predicted class) where a model answered."""

    pixels: np.ndarray
    """uint8 ``(H, W, 3)`` of any size; shown at most ``THUMBNAIL_PX`` a side."""
    label: str
    predicted: str | None = None
    probability: float | None = None
    source: str = ""
    """Where the image comes from, for people."""


def encode_thumbnail(pixels: np.ndarray) -> str:
    """Return a data URI of the image at thumbnail size; equal pixels give equal text."""
    image = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8))
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def choose_examples(probabilities: np.ndarray, labels: np.ndarray, per_class: int = 4) -> list[int]:
    """Return indices of up to ``per_class`` images of every class, from the surest to the least sure, spread evenly.

    Args:
        probabilities: Shape ``(N, K)``.
        labels: True classes, shape ``(N,)``.
        per_class: Images of each class.
    """
    chosen: list[int] = []
    for k in range(probabilities.shape[1]):
        members = np.flatnonzero(labels == k)
        members = members[np.argsort(-probabilities[members, k], kind="stable")]
        steps = np.linspace(0, len(members) - 1, min(per_class, len(members))).round().astype(int)
        chosen += [int(i) for i in members[steps]]
    return chosen


def choose_mistakes(probabilities: np.ndarray, labels: np.ndarray, limit: int = 24) -> list[int]:
    """Return indices of wrong answers, the most confident first."""
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return [int(i) for i in wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")][:limit]]
