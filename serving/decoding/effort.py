"""How much work an image file is to decode, said before it is done: a few bytes can keep a decoder busy for minutes.

Sizes are checked in preprocess.py; here is what costs time beside the pixels. Limits are counts, never seconds, so that
one file is judged alike on every machine; only the last resort, for what nobody has thought of, is a CPU time.
"""

import io
import re
import time
from typing import Literal

from PIL import Image

PLAIN_PIXELS = 25_000_000
"""Pixels whose decoding is never too much work, whatever the limit of the caller."""
JPEG_PASSES = 28
"""Passes over one component of the largest image; encoders write 1 to 4 plain, 14 progressive, 24 of CMYK. A smaller
image may have more."""
ARITHMETIC_WEIGHT = 4
"""A scan of an arithmetic-coded JPEG costs about as much as so many of a Huffman-coded one."""
JPEG_SEGMENTS, JPEG_EXIF_SEGMENTS = 4096, 256
PNG_PROFILES = 8
RLE_PIXELS = 8_000_000
"""Pillow expands run lengths of BMP in Python, 0.1 microseconds a pixel, from as good as no bytes."""
TIFF_STRIPS = 100_000
READS, BYTES_A_READ = 100_000, 32
CPU_S = 60.0
"""More of one thread than any image within the other limits takes, on any machine."""

_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7\x01])")
_SOF = frozenset(b"\xc0\xc1\xc2\xc3\xc5\xc6\xc7\xc9\xca\xcb\xcd\xce\xcf")
_SOS, _EOI, _APP1 = 0xDA, 0xD9, 0xE1
_FIRST_ARITHMETIC = 0xC9
_STRIP_TAGS = frozenset((273, 279, 324, 325))


class EffortError(ValueError):
    """A file that would take too long to decode: the ``problem``, and ``advice`` on what to do."""

    exit_code = None

    def __init__(self, problem: str, advice: str = "save the image again as a plain JPEG or PNG") -> None:
        super().__init__(f"{problem}; {advice}")
        self.problem, self.advice = problem, advice

    def __reduce__(self) -> tuple[type["EffortError"], tuple[str, str]]:
        """Rebuild from the arguments of ``__init__``, so that the error survives a process border."""
        return type(self), (self.problem, self.advice)


class BoundedReader(io.BytesIO):
    """The bytes of one file for one decoder, which may ask so often and no more; use it in one thread."""

    def __init__(self, data: bytes, bytes_a_read: int = BYTES_A_READ) -> None:
        super().__init__(data)
        self._reads_left = READS + len(data) // bytes_a_read
        self._until_s = time.thread_time() + CPU_S

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes; raises EffortError if the decoder has asked or worked too much."""
        self._reads_left -= 1
        if self._reads_left < 0:
            raise EffortError("the file is cut into too many small pieces")
        if self._reads_left % 64 == 0 and time.thread_time() > self._until_s:
            raise EffortError(f"decoding took more than {CPU_S:g} s")
        return super().read(size)


def open_bounded(data: bytes, name: str, max_pixels: int) -> BoundedReader:
    """Return the reader from which a file of the format ``name`` is to be opened.

    Raises:
        EffortError: If its structure alone says that it is too much work.
    """
    if name == "JPEG":
        _check_passes(*_count_jpeg_work(data), max_pixels)
    if name == "PNG" and data.count(b"iCCP") > PNG_PROFILES:  # each may unfold to a megabyte
        raise EffortError(f"the PNG file holds more than {PNG_PROFILES} colour profiles")
    if name == "TIFF" and (strips := _count_tiff_strips(data)) > TIFF_STRIPS:
        raise EffortError(f"the TIFF file is cut into {strips} strips or tiles, at most {TIFF_STRIPS} are read")
    return BoundedReader(data, 1 if name == "BMP" else BYTES_A_READ)  # a run of a BMP is two bytes, each read alone


def check_opened(image: Image.Image, data: bytes, max_pixels: int) -> None:
    """Raise EffortError if loading ``image``, as it was opened from ``data``, is too much work."""
    pixels = image.width * image.height
    if any(tile[0] == "bmp_rle" for tile in getattr(image, "tile", ())) and pixels > RLE_PIXELS:
        raise EffortError(f"a run-length coded BMP is read up to {RLE_PIXELS} pixels, this one has {pixels}")
    if image.format == "TIFF":
        _check_tiff(image, data, max_pixels)


def _check_passes(passes: int, pixels: int, max_pixels: int) -> None:
    if passes * pixels > JPEG_PASSES * max(max_pixels, PLAIN_PIXELS):
        raise EffortError(f"the JPEG passes {passes} times over {pixels} pixels, which takes too long to decode")


def _count_jpeg_work(data: bytes) -> tuple[int, int]:
    """Return (passes over a component of the image, its pixels), following the markers as a decoder does."""
    passes, pixels, weight, exif_segments, place = 0, 0, 1, 0, 2
    for _ in range(JPEG_SEGMENTS):
        found = _MARKER.search(data, place)
        if found is None or (marker := found[1][0]) == _EOI:
            return passes * weight, pixels
        place = found.end()
        size = int.from_bytes(data[place : place + 2])
        if marker in _SOF:
            height, width = int.from_bytes(data[place + 3 : place + 5]), int.from_bytes(data[place + 5 : place + 7])
            pixels = max(pixels, width * height)
            weight = ARITHMETIC_WEIGHT if marker >= _FIRST_ARITHMETIC else weight
        if marker == _SOS:
            passes += max(1, min(4, data[place + 2])) if place + 2 < len(data) else 1
        exif_segments += marker == _APP1 and data[place + 2 : place + 6] == b"Exif"
        if exif_segments > JPEG_EXIF_SEGMENTS:  # Pillow copies all before it for each
            raise EffortError(f"the JPEG file has more than {JPEG_EXIF_SEGMENTS} EXIF segments")
        place += max(size, 2)
    raise EffortError(f"the JPEG file has more than {JPEG_SEGMENTS} segments")


def _count_tiff_strips(data: bytes) -> int:
    """Return the largest number of strips or tiles that the first directory announces, before Pillow unpacks them."""
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"

    def number(place: int, size: int) -> int:
        return int.from_bytes(data[place : place + size], order)

    is_big = number(2, 2) == 43  # BigTIFF
    start = number(8, 8) if is_big else number(4, 4)
    first, step, size = (start + 8, 20, 8) if is_big else (start + 2, 12, 4)
    count = min(number(start, 8 if is_big else 2), len(data) // step)
    entries = range(first, min(first + count * step, len(data)), step)
    return max((number(place + 4, size) for place in entries if number(place, 2) in _STRIP_TAGS), default=0)


def _check_tiff(image: Image.Image, data: bytes, max_pixels: int) -> None:
    tags = image.tag_v2
    if 322 in tags and 323 in tags:  # tiles are decoded whole, however little of them the image shows
        width, height = max(1, int(tags[322])), max(1, int(tags[323]))
        area = -(-image.width // width) * width * -(-image.height // height) * height
        if area > 2 * max(max_pixels, PLAIN_PIXELS):
            raise EffortError(f"the tiles of the TIFF file hold {area} pixels for {image.width} x {image.height}")
    if image.info.get("compression") == "jpeg" and b"\xff\xc2" in data:
        _check_passes(data.count(b"\xff\xda"), image.width * image.height, max_pixels)
