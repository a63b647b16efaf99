"""Embeddings of images: uint8 pixels through a frozen backbone, in batches, without a data loader."""

import logging
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from regraft.models.backbones.network import Normalization
from regraft.models.compute.device import DeviceName, choose_device, is_convolutional, mixed_precision, place_module

logger = logging.getLogger(__name__)


def normalise_pixels(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return float32 ``(B, 3, S, S)`` from uint8 ``(B, S, S, 3)``; laid out channels_last, as the pixels were.

    Args:
        pixels: Colour values 0-255.
        mean: Per channel on the scale 0-1, broadcastable to ``(1, 3, 1, 1)``.
        std: Likewise.
    """
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std


def normalization_tensors(normalization: Normalization, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Return mean and std, each of shape ``(1, 3, 1, 1)``."""
    mean = torch.tensor(normalization.mean, dtype=torch.float32, device=device).view(1, 3, 1, 1)
    return mean, torch.tensor(normalization.std, dtype=torch.float32, device=device).view(1, 3, 1, 1)


def take_batch(pixels: np.ndarray, rows: np.ndarray, device: torch.device) -> Tensor:
    """Return the images at ``rows`` as one uint8 tensor ``(B, S, S, 3)`` on ``device``.

    Args:
        pixels: All images, ``(N, S, S, 3)`` uint8, usually a memory map: only the rows asked for are read.
        rows: Indices, any order.
    """
    return torch.from_numpy(np.ascontiguousarray(pixels[rows])).to(device)


def embed_batch(backbone: nn.Module, batch: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return the embedding ``(B, D)`` of uint8 images ``(B, S, S, 3)``."""
    images = normalise_pixels(batch, mean, std)
    return backbone(images if is_convolutional(backbone) else images.contiguous())


def extract_features(
    backbone: nn.Module,
    pixels: np.ndarray,
    normalization: Normalization,
    *,
    rows: np.ndarray | None = None,
    batch_size: int = 32,
    device: DeviceName = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Return the embeddings of all images (or those at ``rows``), float32 of shape ``(N, D)``.

    The backbone is left in eval mode on the device. The last digits depend on ``batch_size`` and the thread count.

    Args:
        backbone: From images ``(B, 3, S, S)`` to embeddings ``(B, D)``.
        pixels: uint8 ``(N, S, S, 3)``, S as the backbone wants it.
        normalization: Of the backbone.
        rows: Indices into ``pixels``; all when None.
        batch_size: Images at once.
        device: Where to compute.
        progress: Called with (images done, images in all).

    Raises:
        DeviceError: If "cuda" is asked for and absent.
        ValueError: If there is no image.
    """
    rows = np.arange(len(pixels)) if rows is None else np.asarray(rows)
    if len(rows) == 0:
        raise ValueError("no images to extract features from: 0 rows were given.")
    target = choose_device(device)
    backbone = place_module(backbone, target).eval()
    mean, std = normalization_tensors(normalization, target)
    parts: list[np.ndarray] = []
    with torch.inference_mode(), mixed_precision(target):
        for start in range(0, len(rows), batch_size):
            batch = take_batch(pixels, rows[start : start + batch_size], target)
            parts.append(embed_batch(backbone, batch, mean, std).float().cpu().numpy())
            if progress is not None:
                progress(min(start + batch_size, len(rows)), len(rows))
    return np.concatenate(parts)
