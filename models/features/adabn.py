"""AdaBN: BatchNorm statistics re-estimated on the target images, before anything is fitted on the features.

On shifted domains a head fitted under the source's statistics misleads the fine-tuning that starts from it.
"""

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from regraft.models.backbones.network import Normalization
from regraft.models.compute.device import Compute, choose_device, full_precision, place_module
from regraft.models.features.extract import embed_batch, take_batch
from regraft.models.features.frozen_pass import normalization_tensors


def list_batchnorms(module: nn.Module) -> list[_BatchNorm]:
    """Return the BatchNorm layers of ``module`` that keep running statistics, in order."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def adapt_batchnorm(
    backbone: nn.Module,
    pixels: np.ndarray,
    normalization: Normalization,
    *,
    rows: np.ndarray | None = None,
    compute: Compute | None = None,
    batch_size: int = 32,
) -> int:
    """Replace the running statistics by averages over the given images; return how many layers changed.

    Weights, momentum and mode stay as they were (eval mode at the end). Without BatchNorm nothing happens.

    Args:
        backbone: Changed in place, left on the device.
        pixels: uint8 ``(N, S, S, 3)``.
        normalization: Of the backbone.
        rows: Indices into ``pixels``; all when None. They are shuffled: batches of one class would hide the
            variance between classes.
        compute: Where, and the seed of the shuffle; the defaults when None.
        batch_size: Images whose statistics make one term of the average. A last batch under half of it is left out.

    Source: Li et al. 2016, "Revisiting Batch Normalization For Practical Domain Adaptation", arXiv 1603.04779.
    """
    layers = list_batchnorms(backbone)
    if not layers:
        return 0
    compute = compute or Compute()
    target = choose_device(compute.device)
    place_module(backbone, target).eval()
    rows = np.random.default_rng(compute.seed).permutation(np.arange(len(pixels)) if rows is None else rows)
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch then keeps the plain average over the batches
        layer.train()
    try:
        average_batches(backbone, pixels, rows, normalization, batch_size, target)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
            layer.eval()
    return len(layers)


def average_batches(
    backbone: nn.Module,
    pixels: np.ndarray,
    rows: np.ndarray,
    normalization: Normalization,
    batch_size: int,
    device: torch.device,
) -> None:
    """Run the images through the network so that layers in train mode take their statistics."""
    mean, std = normalization_tensors(normalization, device)
    with torch.inference_mode(), full_precision(device):
        for start in range(0, len(rows), batch_size):
            chosen = rows[start : start + batch_size]
            if start == 0 or 2 * len(chosen) >= batch_size:
                embed_batch(backbone, take_batch(pixels, chosen, device), mean, std)
