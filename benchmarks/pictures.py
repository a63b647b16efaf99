"""Pictures in a folder of each class, as the benchmarks read them without the pipeline."""

from pathlib import Path

import numpy as np
from PIL import Image

from regraft.models.backbones.hub import Backbone
from regraft.models.heads.data import LabelledImages
from regraft.serving.files.durable import hash_file

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


def draw_parts(
    folder: Path, labels: int, seed: int, size_px: int, max_test: int, validation: float = 0.2
) -> LabelledImages:
    """Return ``labels`` images of every class for training and validation, and others, at most so many, for the test.

    Args:
        folder: One folder for each class somewhere below it.
        labels: Of every class; a class keeps three images in ten for the test.
        seed: Of the draw.
        size_px: S; images are squashed to squares.
        max_test: Test images of all classes together.
        validation: Share of the labelled images that validate, one of each class at least.
    """
    files, classes = list_pictures(folder)
    names = sorted({path.parent.name for path in files})
    generator = np.random.default_rng(seed)
    chosen, parts = [], []
    for number in range(len(names)):
        rows = generator.permutation(np.flatnonzero(classes == number))
        taught = rows[: min(labels, int(0.7 * len(rows)))]
        asked = rows[len(taught) :][: max_test // len(names)]
        held = max(1, round(validation * len(taught)))
        chosen += [*taught, *asked]
        parts += ["validation"] * held + ["train"] * (len(taught) - held) + ["test"] * len(asked)
    size = (size_px, size_px)
    pictures = [Image.open(files[row]).convert("RGB").resize(size, Image.Resampling.BICUBIC) for row in chosen]
    pixels = np.stack([np.asarray(picture) for picture in pictures])
    return LabelledImages(pixels, classes[chosen], np.array(parts), names)


def open_weights(folder: Path) -> Backbone:
    """Return the pretrained weights in ``folder`` as the pipeline would."""
    return Backbone(folder.name, folder, hash_file(folder / "model.safetensors"), "", "", 0)
