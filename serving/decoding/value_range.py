"""Files deeper than 8 bits: their values in full, and which of them is white.

A 16-bit file may hold 8, 10, 12, 14 or 16 bits of light and does not say how many. The range is therefore measured over
a whole data set (``data/dataset/brightness.py``) and travels in the preprocessing, so that serving brightens alike.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from PIL.ImageFile import ImageFile
from pydantic import BaseModel, Field

INTEGER_BITS = (8, 10, 12, 14, 16)
FLOAT_WHITES = (1, 255, 1023, 4095, 16383, 65535)
FLOAT_OVERSHOOT = 1.1
"""Resampled floating-point pixels swing a little over white; this many times white is still white."""
BRIGHTER = 4
"""A scene lit so many times brighter than all of the training is answered with its highlights clipped, and the drift
watch sees it. What lies beyond is on another scale: such a picture would be white."""
BEYOND_SHARE = 0.01
"""Share of an image's values that may lie beyond: highlights and broken sensor cells."""
PHOTOMETRIC_TAG, WHITE_IS_ZERO = 262, 0
OPAQUE = 65535

Turn = Callable[[np.ndarray], np.ndarray]


class ValueRange(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Which value is white in files deeper than 8 bits; black is 0."""

    integer_bits: Literal[8, 10, 12, 14, 16] = Field(16)
    """Bits that integers fill: 12 means that 4095 is white, whatever the file could hold."""
    float_white: Literal[1, 255, 1023, 4095, 16383, 65535] = Field(1)
    """Floating-point value that is white."""

    def white(self, *, is_float: bool) -> int:
        """Return the value that is white in files of this kind."""
        return self.float_white if is_float else 2**self.integer_bits - 1

    def only(self, *, is_float: bool) -> "ValueRange":
        """Return the range with the other kind of file left at its default."""
        return ValueRange(float_white=self.float_white) if is_float else ValueRange(integer_bits=self.integer_bits)


class RangeError(ValueError):
    """Values without a defined brightness: the ``problem``, and ``advice`` on what to do."""

    exit_code = None

    def __init__(self, problem: str, advice: str, *, is_outside: bool = False) -> None:
        super().__init__(f"{problem}; {advice}")
        self.problem, self.advice, self.is_outside = problem, advice, is_outside


@dataclass(frozen=True, slots=True)
class DeepValues:
    """The values of a file deeper than 8 bits, as it holds them.

    ``values`` is uint16 or float32 (H, W, 1) or (H, W, 3), at least 0; ``alpha`` is uint16 (H, W, 1) or None;
    ``is_inverted`` says that 0 is white.
    """

    values: np.ndarray
    alpha: np.ndarray | None = None
    is_inverted: bool = False

    @property
    def is_float(self) -> bool:
        """Whether the values are floating-point numbers."""
        return self.values.dtype.kind == "f"

    @property
    def peak(self) -> float:
        """The largest value that can be seen."""
        seen = self.values if self.alpha is None else self.values[self.alpha[:, :, 0] > 0]
        return float(seen.max()) if seen.size else 0.0

    def turned(self, turn: Turn) -> "DeepValues":
        """Return the same with ``turn`` done to the picture."""
        return replace(self, values=turn(self.values), alpha=None if self.alpha is None else turn(self.alpha))

    def fit(self) -> ValueRange:
        """Return the narrowest range that holds all that can be seen."""
        return fit_range(self.peak, is_float=self.is_float)

    def render(self, given: ValueRange, background: tuple[int, int, int], *, clip: bool) -> np.ndarray:
        """Return uint8 (H, W, 3): ``given``'s white is 255, what is brighter is 255 too.

        Raises:
            RangeError: Unless ``clip``, if more than a hundredth of the values is over four times as bright as white.
        """
        if not clip:
            self._check_scale(given)
        if self.is_float:
            levels = np.rint(np.clip(self.values / np.float32(given.float_white), 0, 1) * 255).astype(np.uint8)
        else:
            levels = _to_levels(self.values, given.integer_bits)
        if self.is_inverted:
            levels = 255 - levels
        colours = np.repeat(levels, 3, axis=2) if levels.shape[2] == 1 else levels
        if self.alpha is None:
            return colours
        opaque = _to_levels(self.alpha, given.integer_bits).astype(np.uint16)
        mixed = colours * opaque + np.array(background, np.uint16) * (255 - opaque)
        return ((mixed + 127) // 255).astype(np.uint8)

    def _check_scale(self, given: ValueRange) -> None:
        white = given.white(is_float=self.is_float)
        share = float(np.mean(self.values >= BRIGHTER * (white + 1)))
        if share > BEYOND_SHARE:
            raise RangeError(
                f"{share:.0%} of the values are more than {BRIGHTER} times {white}, which is white in the images the "
                f"model learned from; this file reaches {self.peak:g}: it is on another scale",
                "save it on the scale of the training, or retrain with images like this one",
                is_outside=True,
            )


def list_ranges(*, is_float: bool) -> list[ValueRange]:
    """Return all ranges of one kind of file, the narrowest first."""
    if is_float:
        return [ValueRange(float_white=white) for white in FLOAT_WHITES]
    return [ValueRange(integer_bits=bits) for bits in INTEGER_BITS]


def fit_range(peak: float, *, is_float: bool) -> ValueRange:
    """Return the narrowest range that holds values up to ``peak``, at most 65535."""
    slack = FLOAT_OVERSHOOT if is_float else 1
    return next(each for each in list_ranges(is_float=is_float) if peak <= each.white(is_float=is_float) * slack)


def read_layout(image: ImageFile) -> str:
    """Return how Pillow will unpack the pixels, its "raw mode", of an image that is not loaded yet."""
    args = image.tile[0].args if image.tile else ""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def read_deep(image: ImageFile, layout: str, reopen: Callable[[], ImageFile]) -> DeepValues | None:
    """Return the full values of a loaded image if it is deeper than 8 bits, else None; ``layout`` is its raw mode.

    Pillow keeps the high bytes of 16-bit colour. The low ones come from a second look (``reopen``) at the file, with
    the bytes taken in the other order. CMYK and premultiplied alpha stay with their high bytes, as 8-bit files.

    Raises:
        RangeError: If values are negative, above 65535 or not numbers.
    """
    key = image.info.get("transparency")
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _mask_key(_check_values(np.asarray(image)[:, :, None], image), key)
    if layout == "LA;16B":  # 32 bits a pixel; read as RGBA these are the four bytes
        pairs = _load_again(reopen, lambda _: "RGBA").astype(np.uint16)
        return DeepValues(pairs[:, :, :1] << 8 | pairs[:, :, 1:2], pairs[:, :, 2:3] << 8 | pairs[:, :, 3:4])
    if not layout.startswith(("RGB;16", "RGBA;16", "RGBX;16")):
        return None
    values = np.asarray(image).astype(np.uint16) << 8 | _load_again(reopen, _swap_bytes)
    alpha = values[:, :, 3:] if values.shape[2] == 4 else None
    return _mask_key(DeepValues(values[:, :, :3], alpha), key)


def _to_levels(values: np.ndarray, bits: int) -> np.ndarray:
    return (np.minimum(values, 2**bits - 1) >> (bits - 8)).astype(np.uint8)


def _load_again(reopen: Callable[[], ImageFile], change: Callable[[Any], Any]) -> np.ndarray:
    """Return the pixels of the file when its raw mode is changed."""
    with reopen() as again:
        again.tile = [tile._replace(args=change(tile.args)) for tile in again.tile]
        again.load()
        return np.asarray(again)


def _swap_bytes(args: Any) -> Any:
    layout = args if isinstance(args, str) else args[0]
    native = "B" if sys.byteorder == "little" else "L"  # libtiff hands out the machine's order, "N"
    swapped = layout[:-1] + {"L": "B", "B": "L", "N": native}[layout[-1]]
    return swapped if isinstance(args, str) else (swapped, *args[1:])


def _mask_key(deep: DeepValues, key: Any) -> DeepValues:
    """Return the values with the colour that the file calls transparent made so."""
    if not isinstance(key, int | tuple):
        return deep
    hidden = (deep.values == np.array(key)).all(axis=2, keepdims=True)
    return replace(deep, alpha=np.where(hidden, 0, OPAQUE).astype(np.uint16))


def _check_values(values: np.ndarray, image: ImageFile) -> DeepValues:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 65535 * (FLOAT_OVERSHOOT if values.dtype.kind == "f" else 1)):  # NaN fails both
        raise RangeError(
            f"pixels from {low:g} to {high:g} (NaN included) have no defined brightness",
            "scale them to 0-1, or save it with 8 or 16 bits per channel",
        )
    tags = getattr(image, "tag_v2", {})
    kept = np.float32 if values.dtype.kind == "f" else np.uint16
    return DeepValues(values.astype(kept), is_inverted=tags.get(PHOTOMETRIC_TAG) == WHITE_IS_ZERO)
