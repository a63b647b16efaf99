"""The one definition of how the bytes of a file become the array a model sees; training, serving and drift all call it.

Mean and standard deviation are not here: normalisation is a layer inside the ONNX graph.
"""

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import (  # importing a plugin registers its opener in Image.OPEN
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from regraft.serving.decoding.effort import EffortError, check_opened, open_bounded
from regraft.serving.decoding.spec import WHITE
from regraft.serving.decoding.spec import PreprocessSpec as PreprocessSpec
from regraft.serving.decoding.value_range import DeepValues, RangeError, ValueRange, read_deep, read_layout
from regraft.serving.decoding.webp import read_webp_size

ACCEPTED_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # MPO files open as JPEG and say MPO afterwards
MAX_PIXELS = 25_000_000
"""Largest image, in pixels, unless ``ingest.max_pixels`` says another number."""
MOST_PIXELS = 100_000_000
"""What that may be set to: decoding one such image takes about 0.7 GB. What was ingested is never above it."""
ORIENTATION_TAG = 0x0112

# What Pillow still warns about on this path (corrupt EXIF, malformed MPO index) leaves the pixels intact. A filter for
# good and not catch_warnings: that one is process-wide state and races between threads.
warnings.filterwarnings("ignore", module=r"PIL\.")

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class ImageError(ValueError):
    """Bytes that do not become pixels: a ``code`` for programs, the ``problem``, and ``advice`` on what to do."""

    exit_code = 2

    def __init__(
        self,
        code: Literal["empty", "too_large", "unsupported", "undecodable", "out_of_range", "too_costly"],
        problem: str,
        advice: str,
    ) -> None:
        super().__init__(f"{problem}; {advice}")
        self.code, self.problem, self.advice = code, problem, advice

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild from the arguments of ``__init__``, so that the error survives a process border."""
        return type(self), (self.code, self.problem, self.advice)


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """Upright 8-bit RGB pixels and what the file said about itself.

    ``pixels`` has shape (H, W, 3); ``width`` and ``height`` are those of ``pixels``, after the EXIF orientation.
    ``frames`` is exact for PNG, WEBP and MPO; in GIF and TIFF, where counting costs a pass over the file, 2 means two
    or more. ``values`` are what a file deeper than 8 bits holds, upright, where a range was asked for.
    """

    pixels: np.ndarray
    width: int
    height: int
    mode: str
    format: str
    frames: int
    exif_orientation: int
    values: DeepValues | None = None


def decode_image(
    data: bytes,
    *,
    max_pixels: int = MOST_PIXELS,
    background: tuple[int, int, int] = WHITE,
    value_range: ValueRange | Literal["own"] | None = None,
    clip: bool = False,
) -> DecodedImage:
    """Return the first frame of an image file as upright 8-bit RGB.

    Transparency is composited on ``background``, CMYK is converted; ICC profiles are ignored. Thread-safe; sizes are
    checked in the header, before pixels are decoded.

    Args:
        data: The bytes of the file.
        max_pixels: Width times height above which nothing is decoded; give it wherever bytes are new. What ingest has
            let in is read without, or a stage would fail on what an earlier one accepted.
        background: Colour under transparency.
        value_range: Which value is white in files deeper than 8 bits. "own" takes the narrowest range that holds the
            file's values. None shifts 16-bit values to 8 and takes floats from 0 to 1, as before there were ranges.
        clip: Let everything above white be white, even where the file is plainly on another scale.

    Raises:
        ImageError: With a code and the way out, for everything that cannot be read.
    """
    if not data:
        raise ImageError("empty", "the file has no bytes", "send a complete image file")
    name = identify_format(data)
    try:
        return _decode(data, name, max_pixels, background, value_range, clip)
    except ImageError:
        raise
    except RangeError as exc:
        raise ImageError("out_of_range" if exc.is_outside else "undecodable", exc.problem, exc.advice) from exc
    except EffortError as exc:
        raise ImageError("too_costly", f"the {name} is too much work: {exc.problem}", exc.advice) from exc
    except MemoryError as exc:
        raise ImageError("too_large", f"the {name} needs more memory than there is", "send a smaller image") from exc
    except Exception as exc:  # Pillow's plugins raise anything on hostile bytes: struct.error, SyntaxError, KeyError...
        problem = f"the {name} file is damaged or cut short ({type(exc).__name__}: {exc})"
        raise ImageError("undecodable", problem, "save it again as JPEG or PNG") from exc


def prepare_image(pixels: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
    """Return uint8 (size_px, size_px, 3) from uint8 (H, W, 3), as ``spec`` says; cheap for any aspect ratio."""
    image, size = Image.fromarray(pixels), spec.size_px
    resampling = _RESAMPLING[spec.interpolation]
    if spec.fit == "squash":
        return np.array(image.resize((size, size), resampling))
    if spec.fit == "crop":
        return np.array(image.resize((size, size), resampling, box=_centre_box(image.size, spec)))
    scale = size / max(image.size)
    width, height = (min(size, max(1, round(side * scale))) for side in image.size)
    canvas = Image.new("RGB", (size, size), spec.background)
    canvas.paste(image.resize((width, height), resampling), ((size - width) // 2, (size - height) // 2))
    return np.array(canvas)


def open_input(data: bytes, spec: PreprocessSpec, *, max_pixels: int = MOST_PIXELS, clip: bool = False) -> DecodedImage:
    """Return the image as a model of ``spec`` wants it decoded, in its own size; raises ImageError."""
    return decode_image(
        data, max_pixels=max_pixels, background=spec.background, value_range=spec.value_range, clip=clip
    )


def load_input(data: bytes, spec: PreprocessSpec, *, max_pixels: int = MOST_PIXELS, clip: bool = False) -> np.ndarray:
    """Return the model's input, uint8 (size_px, size_px, 3), from the bytes of a file; raises ImageError."""
    return prepare_image(open_input(data, spec, max_pixels=max_pixels, clip=clip).pixels, spec)


def _centre_box(size: tuple[int, int], spec: PreprocessSpec) -> tuple[float, float, float, float]:
    """Return the source window that resize-then-centre-crop keeps; only that window is ever resampled."""
    width, height = size
    side = min(min(size), spec.size_px * min(size) / round(spec.size_px / spec.crop_share))
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def identify_format(data: bytes) -> str:
    """Return the name of the accepted format whose signature ``data`` carries; the file name and type do not count.

    Raises:
        ImageError: If it is none of ``ACCEPTED_FORMATS``.
    """
    for name in ACCEPTED_FORMATS:
        _, accept = Image.OPEN[name]
        if accept is not None and accept(data[:16]) is True:
            return name
    accepted = ", ".join(ACCEPTED_FORMATS)
    raise ImageError("unsupported", f"these bytes are {_guess(data)}", f"send one of {accepted}")


def _guess(data: bytes) -> str:
    head = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if data[4:8] == b"ftyp":
        return f"a {data[8:12].decode('ascii', 'replace').strip()} container (HEIC, AVIF or video)"
    if b"<svg" in head:
        return "an SVG drawing"
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "an HTML or XML page"
    if data.startswith((b"%PDF", b"PK\x03\x04")):
        return "a PDF or an archive"
    return "not an image of a known format"


def _decode(
    data: bytes,
    name: str,
    max_pixels: int,
    background: tuple[int, int, int],
    value_range: ValueRange | Literal["own"] | None,
    clip: bool,
) -> DecodedImage:
    if name == "WEBP":  # its opener already allocates two whole canvases
        _check_size(read_webp_size(data), max_pixels)
    # The plugin is called directly: Image.open would check sizes against a process-wide limit that only warns at first.
    opener, _ = Image.OPEN[name]
    with opener(open_bounded(data, name, max_pixels), "") as image:
        _check_size(image.size, max_pixels)
        check_opened(image, data, max_pixels)
        layout = read_layout(image)  # now: asking a PNG for its EXIF block loads it
        mode, orientation, frames = image.mode, _read_orientation(image), _count_frames(image)
        image.seek(0)
        image.load()
        _check_size(image.size, max_pixels)
        deep = (
            None
            if value_range is None
            else read_deep(image, layout, lambda: opener(open_bounded(data, name, max_pixels), ""))
        )
        left = _read_orientation(image)  # TIFF's loader has turned the image and dropped the tag
        if deep is None or value_range is None:
            pixels = _turn(_to_rgb(image, background), left)
        else:
            deep = deep.turned(lambda picture: _turn(picture, left))
            pixels = deep.render(deep.fit() if value_range == "own" else value_range, background, clip=clip)
    height, width = pixels.shape[:2]
    return DecodedImage(pixels, width, height, mode, image.format or name, frames, orientation, deep)


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            "too_large",
            f"the image has {width} x {height} = {width * height} pixels, at most {max_pixels} are read",
            "scale it down, or raise ingest.max_pixels of the workspace",
        )
    if width < 1 or height < 1:
        raise ImageError("undecodable", f"the header says {width} x {height} pixels", "save the image again")


def _read_orientation(image: Image.Image) -> int:
    try:
        value: Any = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # a broken EXIF block does not make the pixels unreadable
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _count_frames(image: Image.Image) -> int:
    try:
        if image.format in ("GIF", "TIFF"):  # counting all frames of a hostile file takes seconds
            return 2 if image.is_animated else 1
        return int(getattr(image, "n_frames", 1))
    except Exception:  # what follows the first frame is damaged; the first may still be whole
        return 1


def _to_rgb(image: Image.Image, background: tuple[int, int, int]) -> np.ndarray:
    """Return uint8 (H, W, 3) of a loaded image of any mode."""
    if image.mode.startswith("I;16"):
        return _grey_to_rgb((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "I":
        return _grey_to_rgb(_shift_integers(np.asarray(image)))
    if image.mode == "F":
        return _grey_to_rgb(_scale_floats(np.asarray(image)))
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, (*background, 255))
        opaque.alpha_composite(image.convert("RGBA"))
        image = opaque
    return np.array(image.convert("RGB"))


def _grey_to_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[:, :, None], 3, axis=2)


def _shift_integers(values: np.ndarray) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ImageError(
            "undecodable",
            f"32-bit integer pixels from {low} to {high} have no defined brightness",
            "save it with 8 or 16 bits per channel",
        )
    return (values >> 8).astype(np.uint8)


def _scale_floats(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # NaN fails both
        raise ImageError(
            "undecodable",
            f"float pixels from {low:g} to {high:g} (NaN included) have no defined brightness",
            "scale them to 0-1, or save it with 8 or 16 bits per channel",
        )
    return np.round(values * 255).astype(np.uint8)


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return ``pixels`` upright for an EXIF orientation of 1 to 8."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
