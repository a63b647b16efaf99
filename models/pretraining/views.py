"""Random coloured views of grey fields: what the pretraining network sees. Drawn in batches on the training device."""

import math

import torch
from pydantic import BaseModel, Field
from torch import Tensor
from torch.nn import functional


class ViewConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How far a view may stray from its field."""

    min_area_share: float = Field(0.3, gt=0, le=1)
    """Smallest part of the field's area that a view shows."""
    max_turn: float = Field(0.5, ge=0)
    """Largest rotation, in radians, either way."""
    grey_share: float = Field(0.35, ge=0, le=1)
    """Share of views without colour."""
    blend_share: float = Field(0.3, ge=0, le=1)
    """Share of views with another field faintly over them."""
    max_noise: float = Field(0.12, ge=0)
    """Largest standard deviation of pixel noise, on the scale 0-1."""


def make_views(fields: Tensor, size_px: int, config: ViewConfig, generator: torch.Generator) -> Tensor:
    """Return coloured views, float32 ``(B, 3, size_px, size_px)`` on the scale -1..1.

    Args:
        fields: uint8 ``(B, S, S)``.
        size_px: Side of the views.
        config: Ranges of the changes.
        generator: Source of every draw; the same state gives the same views.
    """
    grey = crop_fields(fields[:, None].float() / 255, size_px, config, generator)
    grey = blend_fields(grey, config.blend_share, generator)
    return disturb_views(colour_fields(grey, config.grey_share, generator), config.max_noise, generator)


def draw(generator: torch.Generator, batch: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Return uniform numbers of shape ``(B, 1, 1, 1)``, on the generator's device."""
    return low + (high - low) * torch.rand(batch, 1, 1, 1, generator=generator, device=generator.device)


def crop_fields(grey: Tensor, size_px: int, config: ViewConfig, generator: torch.Generator) -> Tensor:
    """Return randomly placed, sized, turned, stretched and mirrored cut-outs, ``(B, 1, size_px, size_px)``."""
    batch = len(grey)
    side = draw(generator, batch, config.min_area_share).sqrt().view(-1)
    stretch = torch.exp(draw(generator, batch, -0.25, 0.25)).view(-1)
    turn = draw(generator, batch, -config.max_turn, config.max_turn).view(-1)
    mirror = draw(generator, batch, -1).view(-1).sign()
    width, height = side * stretch, side / stretch
    matrix = torch.stack(
        [
            torch.stack([width * turn.cos() * mirror, -height * turn.sin()], 1),
            torch.stack([width * turn.sin() * mirror, height * turn.cos()], 1),
        ],
        1,
    )  # (B, 2, 2)
    room = (1 - side).clamp(min=0)[:, None]
    shift = room * (2 * torch.rand(batch, 2, generator=generator, device=generator.device) - 1)
    places = functional.affine_grid(
        torch.cat([matrix, shift[:, :, None]], 2), [batch, 1, size_px, size_px], align_corners=False
    )
    return functional.grid_sample(grey, places, padding_mode="reflection", align_corners=False)


def blend_fields(grey: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Lay the next field of the batch faintly over some of the fields; the label stays that of the stronger one."""
    weight = draw(generator, len(grey), 0.05, 0.3) * (draw(generator, len(grey)) < share)
    return (1 - weight) * grey + weight * grey.roll(1, dims=0)


def colour_fields(grey: Tensor, grey_share: float, generator: torch.Generator) -> Tensor:
    """Map grey values to colours between three random ones, ``(B, 3, H, W)`` on the scale 0-1.

    The outer two differ in at least a third of the range of one channel or more, so that no view is blank.
    """
    batch = len(grey)
    grey = grey.clamp(0, 1) ** torch.exp(draw(generator, batch, -0.7, 0.7))
    ends = torch.rand(batch, 3, 3, 1, 1, generator=generator, device=generator.device)  # (B, which, channel, 1, 1)
    plain = draw(generator, batch) < grey_share
    ends = torch.where(plain[:, None], ends[:, :, :1].expand_as(ends), ends)
    first, middle, last = ends.unbind(1)
    gap = (last - first).abs().amax(1, keepdim=True)
    last = torch.where(gap < 0.33, torch.where(first > 0.5, first - 0.45, first + 0.45), last)
    middle = (first + last) / 2 + 0.6 * (middle - 0.5) * (draw(generator, batch) < 0.5)
    rising = first + (middle - first) * (2 * grey).clamp(max=1)
    return (rising + (last - middle) * (2 * grey - 1).clamp(min=0)).clamp(0, 1)


def disturb_views(views: Tensor, max_noise: float, generator: torch.Generator) -> Tensor:
    """Add a slanted lamp, blur and pixel noise, and move to the scale -1..1."""
    batch, size = len(views), views.shape[-1]
    axis = torch.linspace(-1, 1, size, device=views.device)
    direction = draw(generator, batch, 0, 2 * math.pi)
    slope = direction.cos() * axis.view(1, 1, 1, -1) + direction.sin() * axis.view(1, 1, -1, 1)
    views = views * (1 + draw(generator, batch, 0, 0.4) * slope)
    blurred = functional.avg_pool2d(functional.pad(views, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    views = views + (blurred - views) * (draw(generator, batch) < 0.3) * draw(generator, batch)
    noise = torch.randn(batch, 1, size, size, generator=generator, device=views.device)
    views = views + noise * draw(generator, batch, 0, max_noise) * (draw(generator, batch) < 0.5)
    return views.clamp(0, 1) * 2 - 1
