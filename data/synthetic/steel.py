"""A seeded steel-strip inspection line: lamp, camera, roll and defects are parameters, so that it can be made to drift.

What is on the strip is drawn in ``data.synthetic.steel_defects``; this module lights it, photographs it and writes
folders.
"""

import io
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field
from scipy import ndimage

from regraft.data.synthetic.steel_defects import DRAWINGS, Defects, Roll, draw_defect, draw_texture
from regraft.serving.files import durable

logger = logging.getLogger(__name__)

LABELS: tuple[str, ...] = tuple(sorted(DRAWINGS))
SOUND_REFLECTANCE = 0.52


class Lamp(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """The light over the strip."""

    brightness: float = Field(1.0, gt=0, le=3)
    """Light on the strip; at 1 sound steel comes out at about half of the camera's range."""
    gradient: float = Field(0.12, ge=0, le=1)
    """Share of the light lost from the lit edge to the far edge of the image."""
    flicker: float = Field(0.05, ge=0, le=0.5)
    """Relative standard deviation of the light from image to image."""
    warmth: float = Field(0.0, ge=-0.5, le=0.5)
    """Colour: red is multiplied by 1 + warmth and blue by 1 - warmth; 0 is grey, an old lamp is warm."""


class Camera(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What turns light into a file."""

    gain: float = Field(1.0, gt=0, le=4)
    """Multiplies the light before noise is added and the range is clipped."""
    blur_px: float = Field(0.4, ge=0, le=10)
    """Standard deviation of the lens blur, in pixels of a 128 px field."""
    noise: float = Field(0.02, ge=0, le=0.3)
    """Standard deviation of the sensor noise, as a share of the range."""
    gamma: float = Field(1.0, ge=0.3, le=3)
    """Exponent of the tone curve; above 1 darkens the middle tones."""
    vignette: float = Field(0.05, ge=0, le=0.9)
    """Share of the light lost in the corners."""
    resolution_px: int = Field(128, ge=32, le=1024)
    """Side of the square image."""
    jpeg_quality: int = Field(92, ge=20, le=100)
    """Quality of the JPEG file, 100 is best."""


class SteelLine(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """One production line. Two equal lines render equal bytes from equal seeds."""

    lamp: Lamp = Field(default_factory=Lamp)
    """The light over the strip."""
    camera: Camera = Field(default_factory=Camera)
    """What turns light into a file."""
    roll: Roll = Field(default_factory=Roll)
    """What the rolls leave on sound steel."""
    defects: Defects = Field(default_factory=Defects)
    """How much of a defect an image shows."""

    @classmethod
    def default(cls) -> "SteelLine":
        """Return the line as it was installed."""
        return cls()

    def with_changes(self, **changes: dict[str, float]) -> "SteelLine":
        """Return the line with some values of some parts replaced, e.g. ``with_changes(lamp={"brightness": 0.6})``.

        Raises:
            pydantic.ValidationError: If a part, a name or a value is not one of the documented ones.
        """
        values = self.model_dump()
        for part, update in changes.items():
            values[part] = {**values.get(part, {}), **update}
        return SteelLine.model_validate(values)

    def aged_lamp(self) -> "SteelLine":
        """Return the line under an old lamp: darker, warmer, less even, less steady."""
        return self.with_changes(lamp={"brightness": 0.75, "gradient": 0.35, "flicker": 0.08, "warmth": 0.1})

    def warm_lamp(self) -> "SteelLine":
        """Return the line under another lamp: brighter and much warmer, lit from one side."""
        return self.with_changes(lamp={"brightness": 1.2, "gradient": 0.35, "flicker": 0.08, "warmth": 0.3})

    def lost_focus(self) -> "SteelLine":
        """Return the line behind another camera whose lens was never focused."""
        return self.with_changes(camera={"blur_px": 2.0, "gamma": 1.25, "vignette": 0.25, "jpeg_quality": 75})

    def swapped_camera(self) -> "SteelLine":
        """Return the line behind a cheaper camera: softer, noisier, with another tone curve and more vignetting."""
        return self.with_changes(
            camera={"blur_px": 0.8, "noise": 0.027, "gamma": 1.25, "vignette": 0.25, "jpeg_quality": 75}
        )


DRIFTED = SteelLine.default().aged_lamp().swapped_camera()
"""The default line after its lamp has aged and its camera was swapped."""
DIMMED = SteelLine(lamp=Lamp(brightness=0.85))
"""The default line with a lamp that has lost a sixth of its light: a change that does no harm."""
REFITTED = SteelLine.default().warm_lamp().lost_focus()
"""The default line after a refit, another lamp and a camera out of focus: more than a head fitted on views bears."""


def light_scene(reflectance: np.ndarray, lamp: Lamp, rng: np.random.Generator) -> np.ndarray:
    """Return the light ``(H, W)`` that leaves a strip of this reflectance."""
    side = reflectance.shape[0]
    fall = 1 - lamp.gradient * np.linspace(0, 1, side, dtype=np.float32)
    level = lamp.brightness * max(0.1, 1 + lamp.flicker * rng.standard_normal())
    return reflectance * fall[None, :] * np.float32(level)


def photograph(light: np.ndarray, lamp: Lamp, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """Return the image, uint8 ``(H, W, 3)``, that the camera makes of the light ``(H, W)``."""
    side = light.shape[0]
    if camera.blur_px:
        light = ndimage.gaussian_filter(light, camera.blur_px * side / 128, mode="nearest")
    offset = np.linspace(-1, 1, side, dtype=np.float32) ** 2
    light = light * (1 - camera.vignette * (offset[:, None] + offset[None, :]) / 2) * np.float32(camera.gain)
    colour = np.array([1 + lamp.warmth, 1.0, 1 - lamp.warmth], np.float32)
    exposed = np.clip(light, 0, None)[:, :, None] * colour
    grain = rng.standard_normal((side, side, 1), dtype=np.float32)  # mostly shared: cheap sensors make grey noise
    speckle = rng.standard_normal((side, side, 3), dtype=np.float32)
    exposed = exposed + camera.noise * (0.9 * grain + 0.4 * speckle)
    toned = np.clip(exposed, 0, 1) ** np.float32(camera.gamma)
    return np.rint(toned * 255).astype(np.uint8)


def render_image(line: SteelLine, label: str, seed: int) -> np.ndarray:
    """Return one photograph of a strip with the defect ``label``, uint8 ``(H, W, 3)``.

    The strip and the photograph draw from separate streams: the same seed on another line shows the same defect.

    Raises:
        ValueError: If ``label`` is not one of ``LABELS``.
    """
    if label not in LABELS:
        raise ValueError(f"unknown defect {label!r}; the line knows {', '.join(LABELS)}")
    strip, shot = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2))
    side = line.camera.resolution_px
    sound = SOUND_REFLECTANCE * strip.uniform(0.88, 1.12) + draw_texture(strip, side, line.roll)
    reflectance = np.clip(sound + draw_defect(strip, side, label, line.defects), 0.02, 1.5)
    light = light_scene(reflectance.astype(np.float32), line.lamp, shot)
    return photograph(light, line.lamp, line.camera, shot)


def encode_image(pixels: np.ndarray, line: SteelLine) -> bytes:
    """Return the file, JPEG bytes, that the line's camera would write."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=line.camera.jpeg_quality)
    return buffer.getvalue()


def derive_seed(seed: int, label: str, index: int) -> int:
    """Return the seed of image ``index`` of a class, different for every class, index and folder seed."""
    return int(np.random.SeedSequence([seed, LABELS.index(label), index]).generate_state(1, np.uint64)[0])


def render_folder(
    into: Path,
    line: SteelLine,
    per_class: int,
    seed: int,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write ``per_class`` images of each defect as ``into/<label>/<label>_<index>.jpg`` and return ``into``.

    The folder appears complete or not at all, and replaces an older one. Equal arguments give equal bytes.
    """
    temporary = into.with_name(f".{into.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    total = per_class * len(LABELS)
    for number, label in enumerate(LABELS):
        (temporary / label).mkdir(parents=True)
        for index in range(per_class):
            pixels = render_image(line, label, derive_seed(seed, label, index))
            (temporary / label / f"{label}_{index:04d}.jpg").write_bytes(encode_image(pixels, line))
            if progress is not None:
                progress(number * per_class + index + 1, total)
    durable.replace_folder(temporary, into)
    logger.info("steel line rendered images=%d seed=%d folder=%s", total, seed, into.name)
    return into
