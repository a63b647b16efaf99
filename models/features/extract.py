"""Embeddings of images: uint8 pixels through a frozen backbone, in batches, without a data loader."""

import logging
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from regraft.models.backbones.network import Normalization
from regraft.models.compute.device import DeviceName, choose_device, is_convolutional, send_array
from regraft.models.features.frozen_pass import FrozenPass, normalise_pixels
from regraft.models.views.view import Change

logger = logging.getLogger(__name__)


def take_batch(pixels: np.ndarray, rows: np.ndarray, device: torch.device) -> Tensor:
    """Return the images at ``rows`` as one uint8 tensor ``(B, S, S, 3)`` on ``device``.

    Args:
        pixels: All images, ``(N, S, S, 3)`` uint8, usually a memory map: only the rows asked for are read.
        rows: Indices, any order.
    """
    return send_array(pixels[rows], device)


def embed_batch(backbone: nn.Module, batch: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return the embedding ``(B, D)`` of uint8 images ``(B, S, S, 3)``."""
    images = normalise_pixels(batch, mean, std)
    return backbone(images if is_convolutional(backbone) else images.contiguous())


def extract_features(
    backbone: nn.Module | FrozenPass,
    pixels: np.ndarray,
    normalization: Normalization,
    *,
    rows: np.ndarray | None = None,
    device: DeviceName = "auto",
    change: Change | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Return the embeddings of all images (or those at ``rows``), float32 of shape ``(N, D)``.

    The backbone is left in eval mode on the device.

    Args:
        backbone: From images ``(B, 3, S, S)`` to embeddings ``(B, D)``, or a pass of it that stands already.
        pixels: uint8 ``(N, S, S, 3)``, S as the backbone wants it.
        normalization: Of the backbone.
        rows: Indices into ``pixels``; all when None.
        device: Where to compute.
        change: Makes the copies of a batch that the backbone sees instead.
        progress: Called with (images done, images in all).

    Raises:
        DeviceError: If "cuda" is asked for and absent.
        ValueError: If there is no image.
    """
    rows = np.arange(len(pixels)) if rows is None else np.asarray(rows)
    if len(rows) == 0:
        raise ValueError("no images to extract features from: 0 rows were given.")
    if not isinstance(backbone, FrozenPass):
        backbone = FrozenPass(backbone, normalization, pixels.shape[1], choose_device(device))

    def make(first: int, after: int) -> np.ndarray:
        images = pixels[rows[first:after]]
        return images if change is None else change(images, first)

    parts, done = [], 0
    for part in backbone.run_pieces(len(rows), make):
        parts.append(part)
        done += len(part)
        if progress is not None:
            progress(done, len(rows))
    return torch.cat(parts).cpu().numpy()  # the only waiting for a device
