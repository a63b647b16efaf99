"""A pretrained backbone at work on one data set: adapted to it, asked for features once, remembered under a key.

The key names everything that the numbers depend on, so a stale entry can never answer; entries are safe to delete.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from regraft.models.backbones.hub import Backbone
from regraft.models.backbones.intermediate_features import DEPTH_SHARES, list_widths, stage_backbone
from regraft.models.backbones.network import Normalization, build_backbone, read_input
from regraft.models.compute.device import Compute, choose_device
from regraft.models.features.adabn import adapt_batchnorm
from regraft.models.features.extract import extract_features
from regraft.models.features.frozen_pass import FrozenPass, list_engines
from regraft.models.views.view import View
from regraft.serving.files.durable import replace_folder, write_json

logger = logging.getLogger(__name__)

FORMAT = 4
"""Raised when the same key would mean other numbers."""


@dataclass(frozen=True, slots=True)
class Features:
    """Embeddings ``(N, D)`` float32 and the numbers in each of their blocks: the last stage's first."""

    values: np.ndarray
    widths: tuple[int, ...]

    @property
    def last(self) -> np.ndarray:
        """Return the last stage's embedding alone."""
        return self.values[:, : self.widths[0]]


class FeatureStore:
    """Features on the disk, one folder for each key; ``None`` as folder keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def read(self, key: dict[str, object]) -> Features | None:
        """Return what was kept under ``key``; None if it is absent, damaged or of another key."""
        if self._folder is None:
            return None
        folder = self._folder / _name(key)
        try:
            note = json.loads((folder / "note.json").read_text())
            values = np.load(folder / "features.npy", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        if not isinstance(note, dict) or note.get("key") != key or note.get("sha256") != _digest(values):
            logger.warning("features of %s are not what was written and are computed again", folder.name)
            return None
        return Features(values, tuple(note["widths"]))

    def write(self, key: dict[str, object], features: Features) -> None:
        """Keep ``features`` under ``key``, whole or not at all."""
        if self._folder is None:
            return
        folder = self._folder / _name(key)
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        np.save(temporary / "features.npy", features.values, allow_pickle=False)
        note = {"key": key, "widths": list(features.widths), "sha256": _digest(features.values)}
        write_json(temporary / "note.json", note)
        replace_folder(temporary, folder)


class FrozenBackbone:
    """The pretrained weights under the BatchNorm statistics of the target's training images."""

    def __init__(
        self,
        backbone: Backbone,
        pixels: np.ndarray,
        *,
        rows: np.ndarray | None = None,
        adapt_images: int,
        store: FeatureStore,
        compute: Compute | None = None,
        shares: Sequence[float] = DEPTH_SHARES,
    ) -> None:
        """Adapt to ``pixels`` when first asked for something that is not kept.

        Args:
            backbone: Pretrained weights.
            pixels: Images ``(N, S, S, 3)`` uint8, perhaps a memory map; only the drawn ones are copied.
            rows: Those of them that train; all when None. At most ``adapt_images`` of them, drawn, are adapted to.
            adapt_images: 0 keeps the source's statistics.
            store: Where features are kept.
            compute: Where, and the seed of the draw; the defaults when None.
            shares: Depths that are tapped.
        """
        self.backbone, self._store = backbone, store
        self._compute, self._shares = compute or Compute(), tuple(shares)
        rows = np.arange(len(pixels)) if rows is None else rows
        drawn = rows[np.sort(np.random.default_rng(self._compute.seed).permutation(len(rows))[:adapt_images])]
        self._adapt = np.ascontiguousarray(pixels[drawn])
        self._wanted = read_input(backbone.folder)
        self._size_px = pixels.shape[1]
        self._pass: FrozenPass | None = None

    @property
    def normalization(self) -> Normalization:
        """Return the colour normalisation that the weights want."""
        return self._wanted.normalization

    @cached_property
    def network(self) -> nn.Module:
        """Return the staged and adapted network, built when it is first needed."""
        network = stage_backbone(build_backbone(self.backbone.folder), self._size_px, self._shares)
        if len(self._adapt):
            normalization = self._wanted.normalization
            adapt_batchnorm(network, self._adapt, normalization, compute=self._compute)
        return network

    def release(self) -> None:
        """Forget the network; it is built again when it is needed."""
        self.__dict__.pop("network", None)
        self._pass = None

    def embed(
        self,
        pixels: np.ndarray,
        *,
        rows: np.ndarray | None = None,
        view: View | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Features:
        """Return the features of uint8 images ``(N, S, S, 3)``, or of those at ``rows``; from the store where kept.

        With a ``view`` they are those of the changed copies, which are made from the pixels at hand.
        """
        key = {**self._fixed, "pixels": hash_pixels(pixels, rows)}
        if view is not None:
            key["view"] = view.describe()
        for engine in list_engines(choose_device(self._compute.device)):
            if (found := self._store.read({**key, "engine": engine})) is not None:
                return found
        frozen = self._open_pass()
        change = None if view is None else view.open(len(pixels) if rows is None else len(rows))
        values = extract_features(
            frozen, pixels, self._wanted.normalization, rows=rows, change=change, progress=progress
        )
        found = Features(values, list_widths(self.network, self._size_px))
        self._store.write({**key, "engine": frozen.engine}, found)
        return found

    def _open_pass(self) -> FrozenPass:
        """Return the pass of the network, made when it is first needed."""
        if self._pass is None:
            device = choose_device(self._compute.device)
            self._pass = FrozenPass(self.network, self._wanted.normalization, self._size_px, device)
        return self._pass

    @cached_property
    def _fixed(self) -> dict[str, object]:
        """Return the part of the key that all calls share."""
        normalization = self._wanted.normalization
        return {
            "format": FORMAT,
            "weights": self.backbone.sha256,
            "normalization": [*normalization.mean, *normalization.std],
            "adapted": hash_pixels(self._adapt),
            "seed": self._compute.seed,
            "shares": list(self._shares),
            "threads": torch.get_num_threads(),
            "device": choose_device(self._compute.device).type,
            "torch": torch.__version__,
        }


def _name(key: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


def _digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values)).hexdigest()


def hash_pixels(pixels: np.ndarray, rows: np.ndarray | None = None) -> str:
    """Return the SHA-256 of the images' bytes, of those at ``rows``; in slices, so that a memory map stays on disk."""
    count = len(pixels) if rows is None else len(rows)
    digest = hashlib.sha256(str((count, *pixels.shape[1:])).encode())
    for start in range(0, count, 256):
        chosen = slice(start, start + 256) if rows is None else rows[start : start + 256]
        digest.update(np.ascontiguousarray(pixels[chosen]))
    return digest.hexdigest()
