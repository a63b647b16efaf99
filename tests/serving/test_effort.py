"""A file that is small to send and slow to decode is refused before the work is done; what encoders write is not."""

import io
import itertools
import pickle
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from regraft.serving.decoding import effort
from regraft.serving.decoding.effort import BoundedReader, EffortError
from regraft.serving.decoding.preprocess import MAX_PIXELS, ImageError, decode_image

SOFT = np.random.default_rng(0).integers(0, 255, (12, 10, 3), dtype=np.uint8)
COSTLY: dict[str, Callable[[], bytes]] = {}


def costly(make: Callable[[], bytes]) -> Callable[[], bytes]:
    COSTLY[make.__name__] = make
    return make


def encode(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


def small(kind: str) -> bytes:
    return encode(SOFT, kind)


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    head = (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    parts = (head, *chunks, (b"IDAT", zlib.compress(bytes(4))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


def tiff(
    width: int, height: int, compression: int, parts: bytes, lay: dict[int, tuple[int, int]], copies: int
) -> bytes:
    """Return a grey TIFF whose ``copies`` strips or tiles all are ``parts``; ``lay`` gives (type, value) by tag."""
    offsets, sizes = (324, 325) if 322 in lay else (273, 279)
    entries = {256: (4, width), 257: (4, height), 258: (3, 8), 259: (3, compression), 262: (3, 1), 277: (3, 1)} | lay
    end = 8 + 2 + 12 * (len(entries) + 2) + 4
    rows = {tag: (kind, 1, value) for tag, (kind, value) in entries.items()}
    rows[offsets] = (4, copies, end if copies > 1 else end + 8)
    rows[sizes] = (4, copies, end + 4 * copies if copies > 1 else len(parts))
    head = b"II*\0" + struct.pack("<IH", 8, len(rows))
    head += b"".join(struct.pack("<HHII", tag, *row) for tag, row in sorted(rows.items())) + bytes(4)
    tables = struct.pack("<I", end + 8 * copies) * copies + struct.pack("<I", len(parts)) * copies
    return head + tables + parts


def bmp(width: int, height: int, runs: bytes) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0) + bytes(1024)
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(runs), 0, 0, 14 + len(head)) + head + runs


def repeat_last_scan(data: bytes, copies: int, extra: bytes = b"") -> bytes:
    return data[:-2] + extra + data[data.rindex(b"\xff\xda") : -2] * copies + b"\xff\xd9"


def large_progressive() -> bytes:
    return encode(np.full((4800, 4800), 90, np.uint8), "JPEG", progressive=True)


@costly
def jpeg_of_many_scans() -> bytes:
    return repeat_last_scan(large_progressive(), 60)


@costly
def jpeg_that_hides_its_scans_behind_a_false_end() -> bytes:
    return repeat_last_scan(large_progressive(), 60, extra=b"\xff\xfe\x00\x04\xff\xd9")


@costly
def jpeg_of_arithmetic_scans() -> bytes:
    data = bytearray(repeat_last_scan(large_progressive(), 4))
    data[data.index(b"\xff\xc2") + 1] = 0xCA
    return bytes(data)


@costly
def jpeg_of_tiny_segments() -> bytes:
    return b"\xff\xd8" + b"\xff\xe1\x00\x02" * 10_000 + small("JPEG")[2:]


@costly
def jpeg_of_fill_bytes() -> bytes:
    return b"\xff\xd8" + b"\xff" * 400_000 + small("JPEG")[2:]


@costly
def jpeg_of_exif_crumbs() -> bytes:
    return b"\xff\xd8" + b"\xff\xe1\x00\x09Exif\0\0x" * 2000 + small("JPEG")[2:]


@costly
def png_of_tiny_chunks() -> bytes:
    return png(*[(b"tEXt", b"k\0v")] * 60_000)


@costly
def png_of_many_profiles() -> bytes:
    return png(*[(b"iCCP", b"k\0\0" + zlib.compress(bytes(1_000_000)))] * 100)


@costly
def gif_of_tiny_blocks() -> bytes:
    data = small("GIF")
    start = data.index(b",", 13 + 3 * 256) if data[10] & 7 == 7 else data.index(b",")
    return data[:start] + b"\x21\xfe" + b"\x01a" * 100_000 + b"\0" + data[start:]


@costly
def tiff_of_tiny_strips() -> bytes:
    return tiff(1, 200_000, 1, b"x", {278: (3, 1)}, 200_000)


@costly
def tiff_of_a_giant_tile() -> bytes:
    return tiff(1, 1, 8, zlib.compress(bytes(9000 * 9000)), {322: (4, 9000), 323: (4, 9000)}, 1)


@costly
def tiff_of_a_progressive_jpeg() -> bytes:
    return tiff(4800, 4800, 7, repeat_last_scan(large_progressive(), 60), {278: (4, 4800)}, 1)


@costly
def bmp_of_empty_runs() -> bytes:
    return bmp(25_000_000, 1, b"\x01\x00\x00\x00")


@pytest.mark.parametrize("name", COSTLY)
def test_a_costly_file_is_refused_in_a_moment_with_a_reason(name):
    data = COSTLY[name]()
    assert len(data) < 4_000_000
    started = time.thread_time()
    with pytest.raises(ImageError, match="too much work") as caught:
        decode_image(data, max_pixels=MAX_PIXELS)
    assert time.thread_time() - started < 1
    assert caught.value.code == "too_costly" and caught.value.advice


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_the_largest_jpeg_an_encoder_writes_passes(mode, progressive):
    data = encode(Image.new(mode, (5000, 5000), 90 if mode == "L" else None), "JPEG", progressive=progressive)
    assert decode_image(data).width == 5000


def test_a_small_jpeg_may_have_many_scans():
    decode_image(repeat_last_scan(encode(SOFT, "JPEG", progressive=True), 60))


def test_scans_of_the_thumbnail_and_of_what_follows_the_image_do_not_count():
    thumbnail = repeat_last_scan(encode(SOFT, "JPEG", progressive=True), 500)
    whole = encode(np.full((4800, 4800), 90, np.uint8), "JPEG", exif=b"Exif\0\0" + thumbnail)
    decode_image(whole + thumbnail * 3)


def test_every_kind_of_file_that_pillow_writes_passes():
    for kind, options in itertools.chain(
        [("PNG", {}), ("GIF", {}), ("BMP", {}), ("WEBP", {}), ("WEBP", {"lossless": True}), ("MPO", {})],
        [("TIFF", {"compression": how}) for how in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")],
    ):
        assert decode_image(encode(SOFT, kind, **options)).height == 12
    frames = [Image.fromarray(np.roll(SOFT, turn)) for turn in range(200)]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        assert decode_image(encode(frames[0], kind, save_all=True, append_images=frames[1:])).frames > 1


def test_what_was_admitted_once_is_read_again_without_a_limit_on_its_scans():
    decode_image(repeat_last_scan(large_progressive(), 10), max_pixels=2**62)


def test_a_run_length_coded_bmp_of_ordinary_size_passes():
    assert decode_image(bmp(300, 200, (b"\x01\x01" * 300 + b"\0\0") * 200 + b"\0\1")).width == 300


def test_a_reader_gives_up_on_a_decoder_that_never_ends(monkeypatch):
    monkeypatch.setattr(effort, "CPU_S", 0.0)
    reader = BoundedReader(b"x" * 1000)
    with pytest.raises(EffortError, match="took more than"):
        for _ in range(65):
            reader.read(1)


def test_the_refusal_survives_a_process_border():
    again = pickle.loads(pickle.dumps(EffortError("too many scans", "fewer")))
    assert (again.problem, again.advice) == ("too many scans", "fewer")
