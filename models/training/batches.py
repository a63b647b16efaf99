"""What a training step looks at: pixels changed anew for every step, or kept activations of a frozen prefix.

Both draw everything from (seed, step) or (seed, view), so that a run killed anywhere leaves no trace.
"""

import logging
import os
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from regraft.models.backbones.split import CutBackbone
from regraft.models.classifier.checkpoint import Classifier
from regraft.models.compute.budget import TrainingPlan
from regraft.models.compute.device import full_precision, send_array
from regraft.models.features.extract import take_batch
from regraft.models.features.frozen_pass import FrozenPass
from regraft.models.features.pixel_source import PixelSource, StreamedPixels, open_source
from regraft.models.heads.data import TrainingData
from regraft.models.training.augmentation import AugmentConfig, augment_batch
from regraft.serving.files.durable import sync_folder

logger = logging.getLogger(__name__)

HALF_LIMIT = 3e4
"""Activations beyond this are kept in single precision: half precision ends at 65504."""


def seed_of(*parts: int) -> int:
    """Return a 63-bit seed mixed from ``parts``."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


class Feed(Protocol):
    """Where batches come from and how they become embeddings."""

    def begin_epoch(self, epoch: int) -> None:
        """Make ready what epoch ``epoch`` (from 0) needs; the network is left in eval mode if it was used."""

    def load_rows(self, rows: np.ndarray, step: int, following: np.ndarray | None = None) -> Tensor:
        """Return what is trained on in ``step``, one row an image, on the device; ``following`` comes in the next."""

    def embed(self, batch: Tensor) -> Tensor:
        """Return embeddings ``(B, D)`` of some of these rows, with gradients."""

    def score_held(self, batch_size: int) -> np.ndarray:
        """Return logits ``(M, K)`` of the validation images, in eval mode, which is left on."""


class PixelFeed:
    """Every step changes its images anew and runs them through the whole network."""

    def __init__(self, classifier: Classifier, data: TrainingData, augment: AugmentConfig, seed: int) -> None:
        self._classifier, self._data, self._augment, self._seed = classifier, data, augment, seed
        rows = np.concatenate([data.train, data.validation])
        self._source = open_source(data.pixels, rows, classifier.head.weight.device)

    def begin_epoch(self, epoch: int) -> None:
        """Nothing is kept."""

    def load_rows(self, rows: np.ndarray, step: int, following: np.ndarray | None = None) -> Tensor:
        """Return the images at ``rows``, changed as (seed, step) says."""
        generator = torch.Generator().manual_seed(seed_of(self._seed, 2, step))
        return augment_batch(self._source.take(rows, following), self._augment, generator)

    def embed(self, batch: Tensor) -> Tensor:
        """Return embeddings of changed images."""
        return self._classifier.embed(batch)

    def score_held(self, batch_size: int) -> np.ndarray:
        """Return the logits of the validation images."""
        return score_source(self._classifier, self._source, self._data.validation, batch_size)


class ActivationFeed:
    """The frozen prefix runs once for each of a few views of an image; only the suffix runs in every step.

    Epoch ``e`` trains on view ``e`` modulo the number of views. A view is a file that is whole or absent.
    """

    def __init__(
        self,
        classifier: Classifier,
        cut: CutBackbone,
        data: TrainingData,
        augment: AugmentConfig,
        *,
        plan: TrainingPlan,
        seed: int,
        folder: Path,
    ) -> None:
        """Keep as many views as ``plan`` says below ``folder``, which belongs to this run alone."""
        self._classifier, self._cut, self._data, self._augment = classifier, cut, data, augment
        self._views, self._batch_size, self._seed, self._folder = plan.views, plan.batch_size, seed, folder
        self._places = np.full(len(data.pixels), -1)
        self._places[data.train] = np.arange(len(data.train))
        self._view: np.ndarray = np.empty((0, 0))
        self._prefix: FrozenPass | None = None

    def begin_epoch(self, epoch: int) -> None:
        """Map the view of this epoch, computing it when it is asked for the first time."""
        number = epoch % self._views
        self._view = self._open(f"view-{number}.npy", self._data.train, number)

    def load_rows(self, rows: np.ndarray, step: int, following: np.ndarray | None = None) -> Tensor:
        """Return the kept activations at ``rows``."""
        return self._send(self._view[self._places[rows]])

    def embed(self, batch: Tensor) -> Tensor:
        """Return embeddings of kept activations."""
        return self._cut.suffix(batch)

    def score_held(self, batch_size: int) -> np.ndarray:
        """Return the logits of the validation images from their kept activations."""
        self._classifier.eval()
        held = self._open("held.npy", self._data.validation, None)
        parts = []
        with torch.inference_mode(), full_precision(self._device):
            for start in range(0, len(held), batch_size):
                kept = np.array(held[start : start + batch_size])  # a copy: torch wants memory it may write to
                parts.append(self._classifier.score(self.embed(self._send(kept))))
        return torch.cat(parts).cpu().numpy()

    def _send(self, activations: np.ndarray) -> Tensor:
        """Return activations on the device in single precision; they cross the bus as they are kept."""
        return send_array(activations, self._device).float()

    def _open(self, name: str, rows: np.ndarray, view: int | None) -> np.ndarray:
        path = self._folder / name
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._fill(path, rows, view)
        return np.load(path, mmap_mode="r", allow_pickle=False)

    def _fill(self, path: Path, rows: np.ndarray, view: int | None) -> None:
        """Write the prefix's activations of the images at ``rows``: changed for a view, as they are without one."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        # Half precision unless an activation does not fit: then all of the file in single precision.
        if not self._write(temporary, rows, view, np.float16):
            self._write(temporary, rows, view, np.float32)
        temporary.replace(path)
        sync_folder(path.parent)

    def _write(self, path: Path, rows: np.ndarray, view: int | None, number: type) -> bool:
        """Write the activations as ``number``; say whether all of them fit."""
        generator = torch.Generator().manual_seed(seed_of(self._seed, 3, view or 0))
        self._classifier.eval()
        frozen = self._open_prefix()
        kept = np.lib.format.open_memmap(path, "w+", number, (len(rows), self._cut.values))
        for start in range(0, len(rows), self._batch_size):
            batch = take_batch(self._data.pixels, rows[start : start + self._batch_size], self._device)
            batch = batch if view is None else augment_batch(batch, self._augment, generator)
            values = frozen.run(batch)
            if number is np.float16 and not bool(np.abs(values).max() < HALF_LIMIT):
                return False
            kept[start : start + len(values)] = values
        kept.flush()
        return True

    def _open_prefix(self) -> FrozenPass:
        """Return the pass of the prefix, made when it is first needed: its weights stay as they are."""
        if self._prefix is None:
            normalization, size_px = self._classifier.normalization, self._data.pixels.shape[1]
            self._prefix = FrozenPass(self._cut.prefix, normalization, size_px, self._device)
        return self._prefix

    @property
    def _device(self) -> torch.device:
        return self._classifier.head.weight.device


def score_images(classifier: Classifier, data: TrainingData, rows: np.ndarray, batch_size: int) -> np.ndarray:
    """Return the logits ``(N, K)`` of the images at ``rows``, in eval mode, which is left on."""
    source = StreamedPixels(data.pixels, classifier.head.weight.device)
    return score_source(classifier, source, rows, batch_size)


def score_source(classifier: Classifier, source: PixelSource, rows: np.ndarray, batch_size: int) -> np.ndarray:
    """Return the logits ``(N, K)`` of the images of a source at ``rows``, in eval mode, which is left on.

    In float32, as they will be served: epochs, heads and temperatures are chosen by them.
    """
    classifier.eval()
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    parts = []
    with torch.inference_mode(), full_precision(classifier.head.weight.device):
        for chosen, following in zip(batches, [*batches[1:], None], strict=True):
            parts.append(classifier.score(classifier.embed(source.take(chosen, following))))
    return torch.cat(parts).cpu().numpy()
