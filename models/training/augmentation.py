"""Light augmentation of uint8 batches in torch: flips, shifts, brightness and contrast, from an explicit generator."""

import torch
from pydantic import BaseModel, Field
from torch import Tensor


class AugmentConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What may be done to a training image without changing its label."""

    flip_horizontal: bool = True
    """Mirror half of the images left to right; switch off where left and right mean something."""
    flip_vertical: bool = False
    """Mirror half of the images top to bottom; safe for textures seen from above."""
    shift_share: float = Field(0.08, ge=0, le=0.5)
    """Largest shift of the crop, as a share of the side; the border is reflected."""
    brightness: float = Field(0.15, ge=0, lt=1)
    """Largest relative change of brightness."""
    contrast: float = Field(0.15, ge=0, lt=1)
    """Largest relative change of contrast."""


def augment_batch(pixels: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Return changed copies of uint8 images ``(B, S, S, 3)``; each draws its own change.

    Args:
        pixels: On any device.
        config: What is allowed.
        generator: On the CPU; decides everything, so equal states give equal images.
    """
    batch, size = pixels.shape[0], pixels.shape[1]
    rows = draw_indices(batch, size, config.shift_share, config.flip_vertical, generator).to(pixels.device)
    columns = draw_indices(batch, size, config.shift_share, config.flip_horizontal, generator).to(pixels.device)
    images = torch.arange(batch, device=pixels.device)[:, None, None]
    moved = pixels[images, rows[:, :, None], columns[:, None, :]]
    gain = draw_factors(batch, config.brightness, generator).to(pixels.device)
    stretch = draw_factors(batch, config.contrast, generator).to(pixels.device)
    if not (config.brightness or config.contrast):
        return moved
    values = moved.float()
    mean = values.mean(dim=(1, 2, 3), keepdim=True)
    return ((values - mean) * stretch + mean * gain).round_().clamp_(0, 255).to(torch.uint8)


def draw_indices(batch: int, size: int, shift_share: float, flip: bool, generator: torch.Generator) -> Tensor:
    """Return for each image which row (or column) to take at each place, ``(B, S)``: shifted, reflected, flipped."""
    reach = int(shift_share * size)
    shifts = torch.randint(-reach, reach + 1, (batch, 1), generator=generator)
    mirrored = torch.rand(batch, 1, generator=generator) < (0.5 if flip else 0.0)
    index = torch.arange(size)[None, :] + shifts
    index = torch.where(index < 0, -index, index)
    index = torch.where(index >= size, 2 * (size - 1) - index, index)
    return torch.where(mirrored, size - 1 - index, index)


def draw_factors(batch: int, reach: float, generator: torch.Generator) -> Tensor:
    """Return a factor around 1 for each image, ``(B, 1, 1, 1)``."""
    return 1 + reach * (2 * torch.rand(batch, 1, 1, 1, generator=generator) - 1)
