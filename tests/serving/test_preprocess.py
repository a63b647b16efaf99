"""How bytes become pixels: every kind of file that cameras, scanners and attackers send."""

import io
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from regraft.serving.decoding.preprocess import ImageError, PreprocessSpec, decode_image, load_input, prepare_image

RAMP = np.full((8, 16, 3), 90, np.uint8)
RAMP[:, :, 0] = np.arange(0, 240, 15)
RAMP[:, :, 2] = np.arange(0, 240, 30)[:, None]


def encode(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """Return a PNG made by hand: an independent writer for depths that Pillow does not write."""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = b"".join(extra) + png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + head + body + png_chunk(b"IEND", b"")


def refusal(data: bytes, **options: int) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(data, **options)
    assert caught.value.advice in str(caught.value)
    return caught.value.code


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_return_the_pixels_they_were_given(kind):
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    decoded = decode_image(encode(RAMP, kind, **options))
    assert np.array_equal(decoded.pixels, RAMP)
    assert (decoded.width, decoded.height, decoded.format, decoded.frames) == (16, 8, kind, 1)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 95, "subsampling": 0}])
def test_jpegs_come_close_to_the_pixels_they_were_given(options):
    smooth = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    assert np.abs(decode_image(encode(smooth, "JPEG", **options)).pixels.astype(int) - smooth).max() <= 3


@pytest.mark.parametrize("share", [0.99, 0.9, 0.5, 0.05])
def test_a_truncated_jpeg_is_undecodable(share):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encode(noise, "JPEG")
    assert refusal(data[: int(len(data) * share)]) == "undecodable"


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_half_a_file_of_any_format_is_undecodable(kind):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encode(noise, kind)
    assert refusal(data[: len(data) // 2]) == "undecodable"
    assert refusal(data[:14]) in ("undecodable", "unsupported")


def test_no_bytes_are_empty():
    assert refusal(b"") == "empty"


@pytest.mark.parametrize(
    "data",
    [
        b"hello, I am a text",
        b"<!doctype html><html><body>404</body></html>",
        b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic",
        b"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00avifmif1",
        b"%PDF-1.7\n",
        b"PK\x03\x04\x14\x00",
        b"P6 2 2 255 aaaaaaaaaaaa",
        b"\x00" * 64,
    ],
)
def test_other_kinds_of_files_are_unsupported(data):
    assert refusal(data) == "unsupported"


def test_a_real_avif_is_unsupported_although_pillow_could_read_it():
    assert refusal(encode(RAMP, "AVIF")) == "unsupported"


def test_a_size_bomb_is_refused_from_its_header_alone():
    header_only = png(30000, 30000, 8, 2, b"")  # 900 million pixels announced, none there
    assert refusal(header_only) == "too_large"


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG"])
def test_the_pixel_limit_holds_to_the_pixel_in_every_format(kind):
    data = encode(RAMP, kind)
    assert decode_image(data, max_pixels=128).pixels.shape == (8, 16, 3)
    assert refusal(data, max_pixels=127) == "too_large"


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 50}, {"save_all": True}])
def test_a_webp_canvas_is_checked_before_it_is_allocated(options):
    assert refusal(encode(Image.new("RGB", (300, 200)), "WEBP", **options), max_pixels=59_999) == "too_large"


def test_a_webp_that_only_announces_a_huge_canvas_is_too_large_not_undecodable():
    header_only = b"RIFF@\0\0\0WEBPVP8X\n\0\0\0" + bytes(4) + b"\xfe?\0" * 12
    assert refusal(header_only) == "too_large"


def test_bombs_are_typed_in_many_threads_at_once_whatever_the_warning_filters():
    bomb, codes = png(12000, 12000, 1, 0, b""), []
    threads = [threading.Thread(target=lambda: codes.append(refusal(bomb))) for _ in range(8)]
    with warnings.catch_warnings(record=True) as seen:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert codes == ["too_large"] * 8 and seen == []


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 128, 64), (10, 10, 10)])
def test_cmyk_jpegs_keep_their_colours(colour):
    cmyk = Image.new("RGB", (16, 16), colour).convert("CMYK")
    decoded = decode_image(encode(cmyk, "JPEG", quality=95))
    assert decoded.mode == "CMYK"
    assert np.abs(decoded.pixels.astype(int) - colour).max() <= 8


def test_adobe_ycck_jpegs_are_not_inverted():
    cmyk = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)  # pure red ink
    marker = cmyk.index(b"Adobe")
    assert cmyk[marker + 11] in (0, 2)
    red = decode_image(cmyk).pixels.mean(axis=(0, 1))
    assert red[0] > 240 and red[1] < 15 and red[2] < 15


def test_16_bit_grey_is_shifted_not_saturated():
    values = np.arange(128, dtype=np.uint16).reshape(8, 16) * 512
    decoded = decode_image(encode(Image.fromarray(values)))
    assert decoded.mode.startswith("I;16")
    assert np.array_equal(decoded.pixels[:, :, 0], values >> 8)


def test_16_bit_rgb_keeps_its_high_bytes():
    rows = b"\x00" + b"".join(struct.pack(">HHH", 0x1234, 0x8001, 0xFF00) for _ in range(4))
    assert decode_image(png(4, 1, 16, 2, rows)).pixels[0, 0].tolist() == [0x12, 0x80, 0xFF]


def test_big_endian_16_bit_tiffs_are_shifted_too():
    values = (np.arange(128, dtype=np.uint16).reshape(8, 16) * 500).astype(">u2")
    image = Image.frombytes("I;16B", (16, 8), values.tobytes())
    assert np.array_equal(decode_image(encode(image, "TIFF")).pixels[:, :, 2], (values >> 8).astype(np.uint8))


def test_one_bit_images_become_black_and_white():
    bits = np.eye(8, dtype=bool)
    assert np.array_equal(decode_image(encode(Image.fromarray(bits))).pixels[:, :, 1], bits * np.uint8(255))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_hidden_colour_under_full_transparency_is_not_revealed(mode):
    hidden = Image.new(mode, (4, 4), (0, 0) if mode == "LA" else (250, 0, 0, 0))
    assert (decode_image(encode(hidden)).pixels == 255).all()
    assert (decode_image(encode(hidden), background=(1, 2, 3)).pixels == (1, 2, 3)).all()


def test_half_transparency_is_mixed_with_the_background():
    half = Image.new("RGBA", (4, 4), (200, 0, 0, 128))
    expected = np.round(np.array([200, 0, 0]) * 128 / 255 + 255 * 127 / 255)
    assert np.abs(decode_image(encode(half)).pixels[0, 0] - expected).max() <= 1


def test_16_bit_alpha_is_composited():
    rows = b"\x00" + struct.pack(">HHHH", 0xFFFF, 0, 0, 0) + struct.pack(">HHHH", 0xFFFF, 0, 0, 0xFFFF)
    assert decode_image(png(2, 1, 16, 6, rows)).pixels.tolist() == [[[255, 255, 255], [255, 0, 0]]]


def test_palette_transparency_is_composited():
    palette = Image.new("P", (2, 1))
    palette.putpalette([250, 0, 0, 0, 0, 250])
    palette.putdata([0, 1])
    assert decode_image(encode(palette, transparency=0)).pixels.tolist() == [[[255, 255, 255], [0, 0, 250]]]
    assert decode_image(encode(palette, transparency=b"\x00\xff")).pixels.tolist() == [[[255, 255, 255], [0, 0, 250]]]
    assert decode_image(encode(palette)).pixels.tolist() == [[[250, 0, 0], [0, 0, 250]]]


def test_a_transparent_colour_key_is_composited():
    image = Image.new("RGB", (2, 1), (9, 9, 9))
    image.putpixel((1, 0), (50, 60, 70))
    assert decode_image(encode(image, transparency=(9, 9, 9))).pixels.tolist() == [[[255, 255, 255], [50, 60, 70]]]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_several_is_taken(kind):
    frames = [Image.new("RGB", (6, 6), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    data = encode(
        frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )
    decoded = decode_image(data)
    assert decoded.pixels[0, 0].tolist() == [255, 0, 0]
    assert decoded.frames == (2 if kind in ("GIF", "TIFF") else 3)


def test_an_mpo_of_two_views_is_read_as_its_first():
    views = [Image.new("RGB", (16, 16), colour) for colour in ((200, 0, 0), (0, 200, 0))]
    decoded = decode_image(encode(views[0], "MPO", save_all=True, append_images=views[1:]))
    assert (decoded.format, decoded.frames) == ("MPO", 2)
    assert decoded.pixels[0, 0, 0] > 190


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_every_exif_orientation_is_turned_upright(orientation, kind):
    corner = np.zeros((8, 16, 3), np.uint8)
    corner[:4, :8] = 255  # the stored top left; where it must be shown is in the EXIF specification's table
    shown = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_image(encode(corner, kind, exif=exif.tobytes()))
    assert decoded.exif_orientation == orientation
    assert (decoded.width, decoded.height) == ((16, 8) if orientation < 5 else (8, 16))
    height, width = decoded.pixels.shape[:2]
    quadrants = decoded.pixels.reshape(2, height // 2, 2, width // 2, 3).mean(axis=(1, 3, 4))
    assert np.unravel_index(quadrants.argmax(), (2, 2)) == shown


@pytest.mark.parametrize("value", [0, 9, 77])
def test_a_nonsense_orientation_counts_as_upright(value):
    exif = Image.Exif()
    exif[0x0112] = value
    decoded = decode_image(encode(RAMP, "PNG", exif=exif.tobytes()))
    assert np.array_equal(decoded.pixels, RAMP)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # as in production, where Pillow only warns
def test_a_broken_exif_block_does_not_make_pixels_unreadable():
    data = encode(RAMP, "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff garbage")
    assert decode_image(data).pixels.shape == (8, 16, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (70, 1), (65500, 1), (1, 65500)])
@pytest.mark.parametrize("fit", ["squash", "crop", "letterbox"])
def test_extreme_sides_become_the_models_square(size, fit):
    spec = PreprocessSpec(size_px=32, fit=fit, crop_share=0.875, interpolation="bicubic")
    assert load_input(encode(Image.new("RGB", size, (9, 9, 9)), "JPEG"), spec).shape == (32, 32, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 7.0])
def test_float_pixels_without_a_defined_brightness_are_undecodable(value):
    values = np.full((4, 4), 0.5, dtype=np.float32)
    values[2, 2] = value
    assert refusal(encode(values, "TIFF")) == "undecodable"


def test_float_pixels_from_0_to_1_are_scaled():
    assert (decode_image(encode(np.full((4, 4), 0.2, np.float32), "TIFF")).pixels == 51).all()


def test_32_bit_integers_are_read_as_16_or_refused():
    assert (decode_image(encode(np.full((4, 4), 0x1234, np.int32), "TIFF")).pixels == 0x12).all()
    assert refusal(encode(np.full((4, 4), 1 << 20, np.int32), "TIFF")) == "undecodable"


def test_trailing_garbage_and_zip_polyglots_decode_as_the_image_they_start_with():
    assert np.array_equal(decode_image(encode(RAMP) + b"PK\x03\x04" + b"x" * 999).pixels, RAMP)


def test_a_text_chunk_that_unpacks_to_gigabytes_is_refused_not_unpacked():
    bomb = png_chunk(b"zTXt", b"k\x00\x00" + zlib.compress(b"\x00" * 8_000_000))
    data = png(16, 8, 8, 2, b"".join(b"\x00" + bytes(row) for row in RAMP.reshape(8, -1)), bomb)
    assert refusal(data) == "undecodable"


def test_flipped_bytes_never_raise_anything_but_image_errors():
    generator, refused = np.random.default_rng(1), 0
    files = [encode(RAMP, kind) for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP")]
    for number in range(300):
        data = bytearray(files[number % len(files)])
        for position in generator.integers(0, len(data), 4):
            data[position] = generator.integers(256)
        try:
            decode_image(bytes(data), max_pixels=100_000)
        except ImageError:
            refused += 1
    assert 0 < refused < 300


def test_squash_equals_pillows_resize():
    spec = PreprocessSpec(size_px=5, fit="squash", interpolation="lanczos")
    expected = np.asarray(Image.fromarray(RAMP).resize((5, 5), Image.Resampling.LANCZOS))
    assert np.array_equal(prepare_image(RAMP, spec), expected)


def test_crop_keeps_the_centre_that_resize_then_crop_keeps():
    generator = np.random.default_rng(0)
    pixels = np.asarray(Image.fromarray(generator.integers(0, 255, (6, 9, 3), dtype=np.uint8)).resize((120, 80)))
    spec = PreprocessSpec(size_px=32, fit="crop", crop_share=0.8, interpolation="bilinear")
    resized = Image.fromarray(pixels).resize((60, 40), Image.Resampling.BILINEAR)
    expected = np.asarray(resized.crop((14, 4, 46, 36))).astype(int)
    assert np.abs(prepare_image(pixels, spec).astype(int) - expected).max() <= 1


def test_letterbox_pads_with_the_background_and_keeps_the_aspect():
    spec = PreprocessSpec(size_px=20, fit="letterbox", interpolation="bilinear", background=(1, 2, 3))
    out = prepare_image(np.full((10, 20, 3), 200, np.uint8), spec)
    assert (out[5:15] == 200).all() and (out[:5] == (1, 2, 3)).all() and (out[15:] == (1, 2, 3)).all()


def test_the_hash_of_a_spec_follows_every_field():
    specs = [PreprocessSpec(size_px=size, fit="squash", interpolation="bilinear") for size in (8, 8, 9)]
    assert specs[0].sha256 == specs[1].sha256 != specs[2].sha256


def test_a_misspelt_field_of_a_spec_is_named():
    with pytest.raises(ValueError, match="siz_px"):
        PreprocessSpec(siz_px=8, size_px=8, fit="squash", interpolation="bilinear")
