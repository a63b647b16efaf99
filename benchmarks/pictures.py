"""Pictures in a folder of each class, as the benchmarks read them without the pipeline."""

from pathlib import Path

import numpy as np
from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


def list_pictures(folder: Path) -> tuple[list[Path], np.ndarray]:
    """Return the pictures below ``folder`` in order, and the number of each one's class ``(N,)``: its own folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES]
    names = sorted({path.parent.name for path in files})
    return files, np.array([names.index(path.parent.name) for path in files])


def load_squares(
    folder: Path, size_px: int, resampling: Image.Resampling = Image.Resampling.BICUBIC
) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels uint8 ``(N, S, S, 3)``, squashed, and the classes ``(N,)``."""
    files, classes = list_pictures(folder)
    resized = [Image.open(path).convert("RGB").resize((size_px, size_px), resampling) for path in files]
    return np.stack([np.asarray(image) for image in resized]), classes
