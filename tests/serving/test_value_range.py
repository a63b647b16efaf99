"""Files deeper than 8 bits: the same picture on every scale becomes the same pixels, or is refused with a reason."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from regraft.serving.decoding.preprocess import MOST_PIXELS, ImageError, PreprocessSpec, decode_image, load_input
from regraft.serving.decoding.value_range import ValueRange, fit_range

GREY = np.random.default_rng(0).integers(0, 256, (9, 7), dtype=np.uint8)
GREY[0, 0], GREY[0, 1] = 0, 255
COLOUR = np.random.default_rng(1).integers(0, 256, (9, 7, 3), dtype=np.uint8)
COLOUR[0, 0] = 255
SCALES = {8: 1, 10: 4, 12: 16, 14: 64, 16: 257}
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}


def save(values: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **options)
    return buffer.getvalue()


def write_png(values: np.ndarray, *extra: tuple[bytes, bytes]) -> bytes:
    """Return a 16-bit PNG of (H, W, C) by hand: Pillow writes no 16-bit colour."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, COLOUR_TYPES[channels], 0, 0, 0)
    chunks = [(b"IHDR", head), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def write_tiff(
    values: np.ndarray, photometric: int, *, order: str = "<", packed: bool = False, extra: int = 0
) -> bytes:
    """Return a 16-bit TIFF of (H, W, C) by hand, of either byte order, deflated or not."""
    height, width, channels = values.shape
    raw = values.astype(f"{order}u2").tobytes()
    raw = zlib.compress(raw) if packed else raw
    fields = {256: [width], 257: [height], 258: [16] * channels, 259: [8 if packed else 1], 262: [photometric]}
    fields |= {273: [0], 277: [channels], 278: [height], 279: [len(raw)], 339: [1] * channels}
    fields |= {338: [extra]} if extra else {}
    start = 8 + 2 + 12 * len(fields) + 4
    fields[273] = [start + sum(2 * len(value) for value in fields.values() if len(value) > 2)]
    entries = outside = b""
    for tag, value in sorted(fields.items()):
        kind, size = ("I", 4) if tag in (273, 279) else ("H", 3)
        body = struct.pack(order + kind * len(value), *value)
        entries += struct.pack(order + "HHI", tag, size, len(value))
        if len(body) <= 4:
            entries += body.ljust(4, b"\0")
        else:
            entries += struct.pack(order + "I", start + len(outside))
            outside += body
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(fields))
    return head + entries + bytes(4) + outside + raw


def decode(data: bytes, bits: int = 16, **options: object) -> np.ndarray:
    return decode_image(data, value_range=ValueRange(integer_bits=bits), **options).pixels


@pytest.mark.parametrize("bits", SCALES)
def test_grey_on_every_scale_becomes_the_8_bit_original(bits):
    deep = GREY.astype(np.uint16) * SCALES[bits]
    big = Image.frombytes("I;16B", (7, 9), deep.astype(">u2").tobytes())
    buffer = io.BytesIO()
    big.save(buffer, "TIFF")
    files = [save(deep), save(deep, "TIFF"), save(deep, "TIFF", compression="tiff_lzw"), buffer.getvalue()]
    files.append(save(deep.astype(np.int32), "TIFF"))
    for data in files:
        assert np.array_equal(decode(data, bits), np.repeat(GREY[:, :, None], 3, axis=2))
        assert fit_range(decode_image(data, value_range="own").values.peak, is_float=False).integer_bits == bits


@pytest.mark.parametrize("bits", SCALES)
def test_16_bit_colour_keeps_its_low_bytes(bits):
    deep = COLOUR.astype(np.uint16) * SCALES[bits]
    files = [write_png(deep)]
    files += [write_tiff(deep, 2, order=order, packed=packed) for order in "<>" for packed in (False, True)]
    files.append(write_tiff(np.dstack([deep, np.full((9, 7), 65535)]), 2, extra=2))
    for data in files:
        assert np.array_equal(decode(data, bits), COLOUR)
        assert np.array_equal(decode_image(data, value_range="own").pixels, COLOUR)


@pytest.mark.parametrize("bits", SCALES)
def test_deep_alpha_is_composited_whatever_its_scale(bits):
    scale = SCALES[bits]
    for opaque in (65535, 255 * scale):
        alpha = np.full((9, 7), opaque)
        alpha[2] = 0
        grey = decode(write_png(np.dstack([GREY * np.uint16(scale), alpha])), bits)
        colour = decode(write_png(np.dstack([COLOUR * np.uint16(scale), alpha])), bits, background=(9, 8, 7))
        assert (grey[2] == 255).all() and (colour[2] == (9, 8, 7)).all()
        assert np.array_equal(grey[3:, :, 1], GREY[3:]) and np.array_equal(colour[3:], COLOUR[3:])


def test_a_deep_colour_that_the_file_calls_transparent_is_not_seen():
    deep = COLOUR.astype(np.uint16)
    deep[4, 4] = (60_000, 1, 2)
    decoded = decode_image(write_png(deep, (b"tRNS", struct.pack(">HHH", 60_000, 1, 2))), value_range="own")
    assert decoded.values.peak == 255 and decoded.pixels[4, 4].tolist() == [255, 255, 255]


@pytest.mark.parametrize("packed", [False, True])
def test_white_is_zero_is_turned_round_in_deep_tiffs_too(packed):
    deep = GREY.astype(np.uint16)[:, :, None] * 16
    assert np.array_equal(
        decode(write_tiff(4095 - deep, 0, packed=packed), 12)[:, :, 0], 255 - (4095 - deep[..., 0] >> 4)
    )
    with pytest.raises(ImageError, match="save it again"):  # Pillow reads it in one byte order only
        decode(write_tiff(deep, 0, order=">"))


def test_the_orientation_is_applied_to_deep_values_as_to_others():
    exif = Image.Exif()
    exif[0x0112] = 6
    plain, deep = (save(values, exif=exif.tobytes()) for values in (GREY, GREY.astype(np.uint16)))
    decoded = decode_image(deep, value_range="own")
    assert np.array_equal(decoded.pixels, decode_image(plain).pixels)
    assert decoded.values.values.shape == (7, 9, 1) and (decoded.width, decoded.height) == (9, 7)


@pytest.mark.parametrize("white", [1, 255, 4095, 65535])
def test_floats_are_scaled_by_their_white_and_may_swing_a_little_over(white):
    values = GREY.astype(np.float32) / 255 * white
    values[0, 1] *= 1.05
    given = fit_range(float(values.max()), is_float=True)
    assert given.float_white == white
    assert np.array_equal(decode_image(save(values, "TIFF"), value_range=given).pixels[:, :, 2], GREY)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 1e6])
def test_floats_without_a_defined_brightness_are_refused_under_any_range(value):
    values = np.full((4, 4), 0.5, np.float32)
    values[1, 1] = value
    with pytest.raises(ImageError) as caught:
        decode_image(save(values, "TIFF"), value_range="own")
    assert caught.value.code == "undecodable"


def test_an_8_bit_file_is_what_it_was_under_every_range():
    for data in (save(GREY), save(COLOUR), save(COLOUR, "JPEG"), save(COLOUR, "WEBP"), save(GREY, "GIF")):
        decoded = decode_image(data, value_range=ValueRange(integer_bits=12))
        assert decoded.values is None and np.array_equal(decoded.pixels, decode_image(data).pixels)


def test_a_file_on_a_wider_scale_than_the_models_is_refused_and_clipped_only_where_asked():
    full = save(GREY.astype(np.uint16) * 257)
    spec = PreprocessSpec(size_px=7, fit="squash", interpolation="bilinear", value_range=ValueRange(integer_bits=12))
    with pytest.raises(ImageError, match="4 times 4095") as caught:
        load_input(full, spec)
    assert caught.value.code == "out_of_range"
    assert (decode(full, 12, clip=True)[GREY > 15] == 255).all()


def test_a_brighter_scene_is_answered_with_its_highlights_clipped():
    brighter = decode(save(GREY.astype(np.uint16) * 64), 12)  # four times as bright as 12 bits go
    assert np.array_equal(brighter[:, :, 0], np.minimum(GREY.astype(int) * 4, 255))
    with pytest.raises(ImageError):
        decode(save(GREY.astype(np.uint16) * 65), 12)


def test_a_few_values_on_another_scale_are_white():
    deep = np.zeros((20, 20), np.uint16)
    deep[0, :4] = 60_000
    assert (decode(save(deep), 12)[0, :4] == 255).all()
    deep[0, 4] = 60_000
    with pytest.raises(ImageError):
        decode(save(deep), 12)


def test_a_range_that_is_not_set_leaves_the_hash_of_the_preprocessing_as_it_was_before_there_were_ranges():
    spec = PreprocessSpec(size_px=224, fit="crop", interpolation="bicubic", crop_share=0.875)
    assert spec.sha256 == "b17d360c4d1501af320c234b987c8466a499c9d760787dfc9070553fef83432d"
    assert "value_range" not in spec.model_dump_json()
    ranged = spec.model_copy(update={"value_range": ValueRange(integer_bits=12)})
    assert ranged.sha256 != spec.sha256
    assert PreprocessSpec.model_validate_json(ranged.model_dump_json()) == ranged


def test_without_a_range_16_bits_are_shifted_as_ever():
    deep = write_png(COLOUR.astype(np.uint16) * 256 + 77)
    assert np.array_equal(decode_image(deep).pixels, COLOUR)
    assert (decode_image(write_tiff(np.full((4, 4, 1), 0x4000), 0)).pixels == 0x40).all()  # old bundles learned from it


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # as in production
def test_no_limit_of_pillows_own_is_met_below_ours(kind, monkeypatch):
    assert MOST_PIXELS < 2 * Image.MAX_IMAGE_PIXELS  # from there on it is an error, in some formats
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    assert decode_image(save(COLOUR, kind)).pixels.shape == (9, 7, 3)
    assert decode_image(write_png(COLOUR.astype(np.uint16)), value_range="own").pixels.shape == (9, 7, 3)
