"""Light augmentation of uint8 batches in torch: flips, shifts, brightness and contrast, from an explicit generator."""

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from regraft.models.compute.device import send_tensor


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
        pixels: On any device; the change is computed there, from six numbers an image that are drawn on the CPU.
        config: What is allowed.
        generator: On the CPU; decides everything, so equal states give equal images on every device.
    """
    batch, size = pixels.shape[0], pixels.shape[1]
    down, over, right, across, gain, stretch = send_tensor(draw_changes(batch, size, config, generator), pixels.device)
    rows, columns = place_indices(size, down, over), place_indices(size, right, across)
    images = torch.arange(batch, device=pixels.device)[:, None, None]
    moved = pixels[images, rows[:, :, None], columns[:, None, :]]
    if not (config.brightness or config.contrast):
        return moved
    values = moved.float()
    mean = values.mean(dim=(1, 2, 3), keepdim=True)
    gain, stretch = gain[:, None, None, None], stretch[:, None, None, None]
    return ((values - mean) * stretch + mean * gain).round_().clamp_(0, 255).to(torch.uint8)


def draw_changes(batch: int, size: int, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Return what happens to each image, ``(6, B)`` float32, on the CPU.

    Rows shifted by and mirrored (0 or 1), columns shifted by and mirrored, brightness and contrast as factors around 1.
    """
    reach = int(config.shift_share * size)
    parts = []
    for flip in (config.flip_vertical, config.flip_horizontal):
        parts.append(torch.randint(-reach, reach + 1, (batch,), generator=generator).float())
        parts.append((torch.rand(batch, generator=generator) < (0.5 if flip else 0.0)).float())
    for strength in (config.brightness, config.contrast):
        parts.append(1 + strength * (2 * torch.rand(batch, generator=generator) - 1))
    return torch.stack(parts)


def place_indices(size: int, shifts: Tensor, mirrored: Tensor) -> Tensor:
    """Return for each image which row (or column) to take at each place, ``(B, S)``: shifted, reflected, flipped."""
    index = torch.arange(size, device=shifts.device)[None, :] + shifts.long()[:, None]
    index = torch.where(index < 0, -index, index)
    index = torch.where(index >= size, 2 * (size - 1) - index, index)
    return torch.where(mirrored[:, None] > 0, size - 1 - index, index)
