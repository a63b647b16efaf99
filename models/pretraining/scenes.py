"""Coloured scenes put together from grey fields: textured things with relief and shadow on textured grounds.

What a distilled network looks at instead of photographs. Drawn in batches on the training device.
"""

import math

import torch
from pydantic import BaseModel, Field
from torch import Tensor
from torch.nn import functional

from regraft.models.pretraining.views import ViewConfig, crop_fields, disturb_views, draw

KNOTS = 9
"""Colours of one colour table."""


class SceneConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What may stand in a scene."""

    things: tuple[float, ...] = (0.85, 0.5)
    """Chance of each thing to be there; later ones lie over earlier ones."""
    grey_share: float = Field(0.3, ge=0, le=1)
    """Share of scenes without colour."""
    texture_area_share: float = Field(0.15, gt=0, le=1)
    """Smallest part of a field that a texture shows."""
    max_noise: float = Field(0.1, ge=0)
    """Largest standard deviation of pixel noise, on the scale 0-1."""


def make_scenes(fields: Tensor, size_px: int, config: SceneConfig, generator: torch.Generator) -> Tensor:
    """Return as many scenes as fields, float32 ``(B, 3, size_px, size_px)`` on the scale -1..1.

    Args:
        fields: uint8 ``(B, S, S)``; each is ground, surface or outline of some scenes.
        size_px: Side of the scenes; a multiple of 8.
        config: What may stand in them.
        generator: Source of every draw; the same state gives the same scenes.
    """
    grey = fields[:, None].float() / 255
    scene = _paint_surface(grey, size_px, config, generator)
    for chance in config.things:
        outline = _draw_outline(grey, size_px, generator)
        outline = outline * (draw(generator, len(grey)) < chance)
        scene = _place_thing(scene, _paint_surface(grey, size_px, config, generator), outline, generator)
    plain = draw(generator, len(grey)) < config.grey_share
    scene = torch.where(plain, scene.mean(1, keepdim=True), scene)
    return disturb_views(light_scenes(scene, generator), config.max_noise, generator)


def light_scenes(scenes: Tensor, generator: torch.Generator) -> Tensor:
    """Scale and shift the brightness of scenes on the scale 0-1."""
    batch = len(scenes)
    return (scenes * draw(generator, batch, 0.6, 1.3) + draw(generator, batch, -0.1, 0.1)).clamp(0, 1)


def look_again(scenes: Tensor, generator: torch.Generator) -> Tensor:
    """Return stored scenes, uint8 ``(B, 3, S, S)``, in another light, mirrored and with other channels, on -1..1."""
    first, second, turn = torch.rand(3, generator=generator, device=generator.device).tolist()
    views = scenes[:, torch.randperm(3, generator=generator, device=generator.device)].float() / 255
    views = views.flip(3) if first < 0.5 else views
    views = views.flip(2) if second < 0.5 else views
    views = views.transpose(2, 3) if turn < 0.5 else views
    return light_scenes(views, generator) * 2 - 1


def _strangers(grey: Tensor, generator: torch.Generator) -> Tensor:
    """Return the batch in another order."""
    return grey[torch.randperm(len(grey), generator=generator, device=grey.device)]


def _paint_surface(grey: Tensor, size_px: int, config: SceneConfig, generator: torch.Generator) -> Tensor:
    """Return coloured textures ``(B, 3, size_px, size_px)`` on 0-1; some are two fields mixed."""
    views = ViewConfig(min_area_share=config.texture_area_share, max_turn=math.pi)
    first = crop_fields(_strangers(grey, generator), size_px, views, generator)
    second = crop_fields(_strangers(grey, generator), size_px, views, generator)
    first = first.clamp(0, 1) ** torch.exp(draw(generator, len(grey), -0.7, 0.7))
    weight = draw(generator, len(grey), 0, 0.6) * (draw(generator, len(grey)) < 0.4)
    return apply_colours((1 - weight) * first + weight * second, draw_colours(len(grey), generator))


def draw_colours(batch: int, generator: torch.Generator) -> Tensor:
    """Return colour tables ``(B, 3, KNOTS)`` on 0-1: from smooth ramps to unrelated colours, a fifth without colour."""

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=generator.device)

    wild, ends = rand(batch, 3, KNOTS), rand(batch, 3, 2)
    ramp = torch.linspace(0, 1, KNOTS, device=wild.device)
    smooth = ends[..., :1] * (1 - ramp) + ends[..., 1:] * ramp
    table = smooth + rand(batch, 1, 1) ** 2 * (wild - smooth)
    mean = table.mean(1, keepdim=True)
    table = mean + 1.4 * rand(batch, 1, 1) * (rand(batch, 1, 1) > 0.2) * (table - mean)
    low, high = table.amin((1, 2), keepdim=True), table.amax((1, 2), keepdim=True)
    contrast = 0.25 + 0.75 * rand(batch, 1, 1)
    return rand(batch, 1, 1) * (1 - contrast) + contrast * (table - low) / (high - low).clamp(min=1e-3)


def apply_colours(grey: Tensor, table: Tensor) -> Tensor:
    """Look grey values ``(B, 1, H, W)`` up in colour tables, linearly between their entries: ``(B, 3, H, W)``."""
    place = grey.clamp(0, 1) * (KNOTS - 1)
    below = place.floor().clamp(max=KNOTS - 2)
    rows = below.long().flatten(1)[:, None].expand(-1, 3, -1)
    low, high = table.gather(2, rows), table.gather(2, rows + 1)
    return (low + (high - low) * (place - below).flatten(1)[:, None]).view(len(grey), 3, *grey.shape[2:])


def _blur(image: Tensor, factor: int) -> Tensor:
    """Return ``image`` as its ``factor`` times smaller copy shows it."""
    small = functional.avg_pool2d(image, factor)
    return functional.interpolate(small, size=image.shape[2:], mode="bilinear", align_corners=False)


def _draw_outline(grey: Tensor, size_px: int, generator: torch.Generator) -> Tensor:
    """Return opacities ``(B, 1, size_px, size_px)``: a field cut at a level, mostly within a bent ellipse."""
    batch = len(grey)
    field = crop_fields(_strangers(grey, generator), size_px, ViewConfig(max_turn=math.pi), generator)
    field = torch.where(draw(generator, batch) < 0.6, _blur(field, 4), field)
    field = field - field.mean((2, 3), keepdim=True)
    axis = torch.linspace(-1, 1, size_px, device=grey.device)
    x = axis.view(1, 1, 1, -1) - draw(generator, batch, -0.5, 0.5)
    y = axis.view(1, 1, -1, 1) - draw(generator, batch, -0.5, 0.5)
    angle, stretch = draw(generator, batch, 0, math.pi), torch.exp(draw(generator, batch, -0.7, 0.7))
    u = (x * angle.cos() + y * angle.sin()) * stretch
    v = (y * angle.cos() - x * angle.sin()) / stretch
    inside = 1 - (u * u + v * v) / draw(generator, batch, 0.25, 0.9) ** 2
    bent = 0.5 * inside + field * draw(generator, batch, 0.2, 2.0)
    cut = field - field.std((2, 3), keepdim=True) * draw(generator, batch, -0.5, 1.2)
    level = torch.where(draw(generator, batch) < 0.7, bent, cut)
    return (level * torch.exp(draw(generator, batch, math.log(4), math.log(40))) + 0.5).clamp(0, 1)


def _place_thing(ground: Tensor, surface: Tensor, outline: Tensor, generator: torch.Generator) -> Tensor:
    """Lay a surface over the ground where the outline is opaque, lit from one side, some with a shadow beside it."""
    batch, direction = len(ground), draw(generator, len(ground), 0, 2 * math.pi)
    wide = _blur(outline, 8)
    slope = direction.cos() * (wide - wide.roll(3, 3)) + direction.sin() * (wide - wide.roll(3, 2))
    light = 1 + draw(generator, batch, 0, 3) * slope
    dark = draw(generator, batch, 0, 0.6) * (draw(generator, batch) < 0.5) * wide.roll((3, 4), (2, 3))
    return ground * (1 - dark) * (1 - outline) + outline * surface * light
