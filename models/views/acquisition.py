"""The same scene taken again: another lamp, another lens, another sensor, each image with its own; batched in torch."""

import io
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

GRAINS = (1.0, 1.5, 2.0, 3.0)
"""Widths of the noise's grain in pixels."""
BLUR_REACH = 3
"""Standard deviations at which the blur's kernel ends."""


@dataclass(frozen=True, slots=True)
class Acquisition:
    """What changes when B images are taken again; every field ``(B,)`` float32, the default leaves all as it was.

    Attributes:
        light: Factor on the light.
        warmth: Red is multiplied by 1 + warmth and blue by 1 - warmth.
        gamma: Exponent of the tone curve; above 1 darkens the middle tones.
        contrast: Factor on the distance from the image's mean.
        fall: Share of the light lost from the lit edge to the far edge.
        fall_angle: Where the lit edge lies, radians.
        vignette: Share of the light lost in the corners.
        blur: Standard deviation of the lens blur, as a share of the side.
        noise: Standard deviation of the sensor noise, as a share of the range; three quarters of its variance are grey.
        zoom: How much larger the scene is in the image, around its middle.
        quality: Of the JPEG file that the image is kept in, 1 to 95 as libjpeg counts; 0 keeps it without loss.
    """

    light: np.ndarray
    warmth: np.ndarray
    gamma: np.ndarray
    contrast: np.ndarray
    fall: np.ndarray
    fall_angle: np.ndarray
    vignette: np.ndarray
    blur: np.ndarray
    noise: np.ndarray
    zoom: np.ndarray
    quality: np.ndarray

    @classmethod
    def unchanged(cls, count: int) -> "Acquisition":
        """Return the acquisition of ``count`` images that changes nothing."""
        neutral = {"light": 1.0, "gamma": 1.0, "contrast": 1.0, "zoom": 1.0}
        return cls(**{each.name: np.full(count, neutral.get(each.name, 0.0), np.float32) for each in fields(cls)})

    def with_changes(self, **changes: float) -> "Acquisition":
        """Return the same with some fields set to one value for all images."""
        return replace(self, **{name: np.full_like(self.light, value) for name, value in changes.items()})

    def take(self, rows: np.ndarray | slice) -> "Acquisition":
        """Return the part of it that is about the images at ``rows``."""
        return Acquisition(**{each.name: getattr(self, each.name)[rows] for each in fields(self)})


def take_again(pixels: Tensor, acquisition: Acquisition, generator: torch.Generator) -> Tensor:
    """Return uint8 images ``(B, S, S, 3)`` as the acquisition gives them.

    Light, lens and colour act on the light, noise on what the sensor reads, then come tone curve, contrast and the
    clipping of the range, and the file last: the order of a camera.

    Args:
        pixels: uint8 ``(B, S, S, 3)`` on any device.
        acquisition: Of B images.
        generator: On the CPU; decides the noise.
    """

    light = pixels.permute(0, 3, 1, 2).float().div_(255)
    side = light.shape[-1]

    def change(undergo: np.ndarray, how: Callable[[Tensor, Acquisition], Tensor]) -> None:
        """Replace the images that ``undergo`` a change: at every second one it would be half the work for nothing."""
        rows = np.flatnonzero(undergo)
        if len(rows) == len(light):
            light.copy_(how(light, acquisition))
        elif len(rows):
            at = torch.from_numpy(rows).to(light.device)
            light.index_copy_(0, at, how(light[at], acquisition.take(rows)))

    def gather(images: Tensor, taken: Acquisition) -> Tensor:
        lamp = spread_light(side, taken.fall, taken.fall_angle, taken.vignette).to(images.device)
        return images * (lamp * _column(taken.light, images))

    def add_noise(images: Tensor, taken: Acquisition) -> Tensor:
        return images + _column(taken.noise, images) * draw_noise(images, generator)

    change(acquisition.zoom != 1, lambda images, taken: zoom_images(images, taken.zoom))
    change(acquisition.blur > 0, lambda images, taken: blur_images(images, taken.blur * side))
    lit = (acquisition.light != 1) | (acquisition.fall != 0) | (acquisition.vignette != 0)
    change(lit, gather)
    change(acquisition.warmth != 0, lambda images, taken: images * tint(taken.warmth, images))
    change(acquisition.noise > 0, add_noise)
    light.clamp_(0, 1)
    change(acquisition.gamma != 1, lambda images, taken: images ** _column(taken.gamma, images))
    change(acquisition.contrast != 1, lambda images, taken: scale_contrast(images, taken.contrast))
    taken = light.mul_(255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return compress_images(taken, acquisition.quality) if np.any(acquisition.quality > 0) else taken


def _column(values: np.ndarray, like: Tensor) -> Tensor:
    """Return one number for each image, ``(B, 1, 1, 1)``."""
    return torch.from_numpy(values).to(like.device).view(-1, 1, 1, 1)


def tint(warmth: np.ndarray, like: Tensor) -> Tensor:
    """Return the factors on red, green and blue ``(B, 3, 1, 1)`` of a lamp so much warmer, ``(B,)``."""
    factors = np.stack([1 + warmth, np.ones_like(warmth), 1 - warmth], axis=1)
    return torch.from_numpy(factors).to(like.device)[:, :, None, None]


def scale_contrast(light: Tensor, factor: np.ndarray) -> Tensor:
    """Return images ``(B, 3, S, S)`` whose distance from their own mean is ``factor`` ``(B,)`` times what it was."""
    mean = light.mean(dim=(1, 2, 3), keepdim=True)
    return ((light - mean) * _column(factor, light) + mean).clamp_(0, 1)


def compress_images(pixels: Tensor, quality: np.ndarray) -> Tensor:
    """Return uint8 images ``(B, S, S, 3)`` as JPEG files of ``quality`` ``(B,)`` give them back; 0 changes nothing."""

    def compress(image: np.ndarray, grade: int) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=grade)
        return np.asarray(Image.open(file))

    images = pixels.cpu().numpy()
    pairs = zip(images, quality, strict=True)
    kept = np.stack([compress(image, round(float(grade))) if grade > 0 else image for image, grade in pairs])
    return torch.from_numpy(kept).to(pixels.device)


def spread_light(side: int, fall: np.ndarray, angle: np.ndarray, vignette: np.ndarray) -> Tensor:
    """Return the share of the light that reaches each place, ``(B, 1, S, S)``: from one side, and less in the corners.

    Args:
        side: S.
        fall: Share lost from the lit edge to the far edge, ``(B,)``; in the mean of the image nothing is lost.
        angle: Direction of the lit edge, radians, ``(B,)``.
        vignette: Share lost in the corners, ``(B,)``.
    """
    place = torch.linspace(-1, 1, side)
    fall, angle, vignette = (torch.from_numpy(each).view(-1, 1, 1) for each in (fall, angle, vignette))
    along = (torch.cos(angle) * place[None, None, :] + torch.sin(angle) * place[None, :, None]) / 2
    round_off = (place[None, None, :] ** 2 + place[None, :, None] ** 2) / 2
    return ((1 - fall * along) * (1 - vignette * round_off))[:, None]


def blur_images(light: Tensor, sigma: np.ndarray) -> Tensor:
    """Return images ``(B, 3, S, S)`` behind a Gaussian blur of ``sigma`` px each, ``(B,)``; the border is repeated."""
    batch, channels, side, _ = light.shape
    reach = max(1, min(side - 1, int(np.ceil(BLUR_REACH * float(sigma.max())))))
    place = torch.arange(-reach, reach + 1, dtype=torch.float32)
    wide = torch.from_numpy(np.maximum(sigma, 1e-3).astype(np.float32))
    kernel = torch.exp(-0.5 * (place[None] / wide[:, None]) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, 0).to(light.device)
    flat = light.reshape(1, batch * channels, side, side)
    across = functional.conv2d(
        functional.pad(flat, (reach, reach, 0, 0), mode="replicate"), kernel[:, None, None], groups=len(kernel)
    )
    down = functional.conv2d(
        functional.pad(across, (0, 0, reach, reach), mode="replicate"), kernel[:, None, :, None], groups=len(kernel)
    )
    return down.reshape(light.shape)


def zoom_images(light: Tensor, zoom: np.ndarray) -> Tensor:
    """Return images ``(B, 3, S, S)`` enlarged around the middle by ``zoom`` ``(B,)``; the border is reflected."""
    side = light.shape[-1]
    place = torch.linspace(-1 + 1 / side, 1 - 1 / side, side, device=light.device)
    along = place / torch.from_numpy(zoom).to(light.device)[:, None]
    across, down = along[:, None, :].expand(-1, side, -1), along[:, :, None].expand(-1, -1, side)
    grid = torch.stack([across, down], dim=-1)
    return functional.grid_sample(light, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def draw_noise(light: Tensor, generator: torch.Generator) -> Tensor:
    """Return noise ``(B, 3, S, S)`` of standard deviation 1: mostly grey, and as coarse as a sensor's pixels are.

    An image that is enlarged for the network has its noise enlarged with it, one that is shrunk has none left that is
    finer than a pixel: each batch draws how many pixels wide its grain is.
    """
    batch, channels, height, width = light.shape
    grain = GRAINS[int(torch.randint(len(GRAINS), (1,), generator=generator))]
    rows, columns = max(2, round(height / grain)), max(2, round(width / grain))
    grey = torch.randn(batch, 1, rows, columns, generator=generator)
    colour = torch.randn(batch, channels, rows, columns, generator=generator)
    noise = 0.866 * grey + 0.5 * colour
    if grain != 1:
        noise = functional.interpolate(noise, size=(height, width), mode="bilinear")
        noise = noise / noise.std()
    return noise.to(light.device)
