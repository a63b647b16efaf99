"""A version in this process: files, arrays and Pillow images in, labels with probabilities out. No torch."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from regraft.serving.bundle.runtime import ModelHandle
from regraft.serving.decoding.preprocess import load_input
from regraft.serving.registry.journal import RegistryError
from regraft.serving.registry.registry import Registry
from regraft.tasks.workspace.workspace import WorkspaceError, open_workspace

BATCH = 32
Picture = str | Path | bytes | np.ndarray | Image.Image


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one image: the likeliest label and the probability of every one, in 0 to 1."""

    label: str
    probability: float
    probabilities: dict[str, float]


class Model:
    """One version, ready to answer; it has reproduced its golden answers. Safe to call from several threads."""

    def __init__(self, handle: ModelHandle) -> None:
        self._handle = handle

    @property
    def version(self) -> str:
        """The version's name."""
        return self._handle.info.version

    @property
    def labels(self) -> list[str]:
        """The class names, in the order of the model's output."""
        return list(self._handle.info.labels)

    @property
    def metrics(self) -> dict[str, Any]:
        """Scores on the test part when the version was made."""
        return dict(self._handle.info.metrics.get("test", {}))

    def predict(self, images: Picture | Iterable[Picture]) -> Prediction | list[Prediction]:
        """Name what an image shows, or each of several.

        Args:
            images: A path, the bytes of an image file, a Pillow image, or an array uint8 ``(H, W, 3)`` or ``(H, W)``;
                or several of these, mixed. An array or Pillow image becomes the model's pixels as a lossless file of it
                would.

        Returns:
            One prediction for one image, a list for several.

        Raises:
            ImageError: If an image cannot be read; it says which and what to do.
            FileNotFoundError: If there is no such file.
            TypeError: If something is no image at all.
        """
        if isinstance(images, str | Path | bytes | np.ndarray | Image.Image):
            return self._answer([images])[0]
        return self._answer(list(images))

    def _answer(self, images: list[Picture]) -> list[Prediction]:
        answers = []
        for start in range(0, len(images), BATCH):
            batch = np.stack([self._prepare(image) for image in images[start : start + BATCH]])
            for row in self._handle.predict(batch).probabilities:
                named = dict(zip(self.labels, map(float, row), strict=True))
                label = max(named, key=named.__getitem__)
                answers.append(Prediction(label, named[label], named))
        return answers

    def _prepare(self, image: Picture) -> np.ndarray:
        return load_input(read_bytes(image), self._handle.info.preprocess)

    def __repr__(self) -> str:
        return f"<regraft.Model {self.version}: {', '.join(self.labels)}>"


def read_bytes(image: Picture) -> bytes:
    """Return an image as the bytes of a file: those of the file itself, or a PNG of pixels in memory.

    Raises:
        TypeError: If it is no image.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | Path):
        return Path(image).expanduser().read_bytes()
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,), (4,)):
            raise TypeError(
                f"an image in memory is uint8 (H, W), (H, W, 3) or (H, W, 4); this is {image.dtype} {image.shape}"
            )
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise TypeError(f"an image is a path, bytes, an array or a Pillow image, not {type(image).__name__}")
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=0)
    return file.getvalue()


def load(source: str | Path, version: str | None = None) -> Model:
    """Return a model: the champion of a workspace, one of its versions, or the one in a bundle folder.

    Args:
        source: A workspace or the folder of a bundle.
        version: Of a workspace: a version, or as many of its first digits as make it unique. Default: the champion.

    Raises:
        WorkspaceError: If it is neither, or there is no champion.
        RegistryError: If there is no such version.
        BundleError: If hashes, graph or golden answers do not fit.
    """
    folder = Path(source).expanduser()
    if (folder / "bundle.json").is_file():
        if version is not None:
            raise RegistryError(f"{folder} is one bundle; name a version of a workspace")
        return Model(ModelHandle.open(folder))
    home = open_workspace(folder)
    registry = Registry(home.models_store)
    chosen = registry.pointer().champion if version is None else registry.resolve(version)
    if chosen is None:
        raise WorkspaceError(
            f"{home.root} has no champion; make one with regraft.train(data, workspace={str(source)!r})"
        )
    return Model(ModelHandle.open(home.models_store / "versions" / chosen))
