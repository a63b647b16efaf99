"""Loading: the pixels of the served preprocessing, cached, and never stale or broken."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regraft.data.dataset.manifest import SCHEMA, DatasetError, write_manifest
from regraft.data.dataset.pixel_cache import load_pixels
from regraft.data.dataset.shards import ShardWriter
from regraft.serving.decoding.preprocess import PreprocessSpec, decode_image, prepare_image

SPEC = PreprocessSpec(size_px=12, fit="squash", interpolation="bilinear")


def make_dataset(dataset: Path, count: int = 6) -> dict[str, bytes]:
    writer, images = ShardWriter(dataset), {}
    for seed in range(count):
        pixels = np.random.default_rng(seed).integers(0, 255, (16 + seed, 20, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        images[hashlib.sha256(file.getvalue()).hexdigest()] = file.getvalue()
    for sha256, image in images.items():
        writer.add(sha256, image)
    writer.close_shard()
    empty = dict.fromkeys(SCHEMA.names)
    rows = [{**empty, "sha256": s, "shard": p[0], "shard_row": p[1]} for s, p in writer.places.items()]
    write_manifest(dataset, rows)
    return images


def load(tmp_path: Path, asked: list[str], spec: PreprocessSpec = SPEC) -> tuple[np.ndarray, int]:
    """Return the pixels and how many images were decoded for them."""
    seen = [0]
    pixels = load_pixels(
        tmp_path / "dataset", asked, spec, tmp_path / "cache", progress=lambda done, total: seen.append(done)
    )
    return pixels, seen[-1]


def test_pixels_are_those_of_the_served_preprocessing_in_the_asked_order(tmp_path):
    images = make_dataset(tmp_path / "dataset")
    asked = [*reversed(images), next(iter(images))]
    pixels, decoded = load(tmp_path, asked)
    truth = np.stack([prepare_image(decode_image(images[sha256]).pixels, SPEC) for sha256 in asked])
    assert (pixels.dtype, decoded) == (np.uint8, 7)
    np.testing.assert_array_equal(pixels, truth)


def test_a_second_load_comes_from_the_cache_and_is_read_only(tmp_path):
    asked = list(make_dataset(tmp_path / "dataset"))
    first, _ = load(tmp_path, asked)
    second, decoded = load(tmp_path, asked)
    assert decoded == 0
    np.testing.assert_array_equal(first, second)
    for pixels in (first, second):
        assert isinstance(pixels, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            pixels[0] = 0


def test_other_images_another_order_or_another_preprocessing_have_their_own_cache(tmp_path):
    asked = list(make_dataset(tmp_path / "dataset"))
    others = [
        (asked, SPEC),
        (asked[:-1], SPEC),
        (asked[::-1], SPEC),
        (asked, SPEC.model_copy(update={"fit": "crop"})),
        (asked, SPEC.model_copy(update={"interpolation": "bicubic"})),
    ]
    assert [load(tmp_path, *other)[1] for other in others] == [len(other[0]) for other in others]
    assert [load(tmp_path, *other)[1] for other in others] == [0] * 5


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "no_side", "half_side", "other_side", "shape"])
def test_a_broken_cache_file_is_built_again(tmp_path, damage):
    asked = list(make_dataset(tmp_path / "dataset"))
    truth = np.array(load(tmp_path, asked)[0])
    array, side = next(tmp_path.glob("cache/*.npy")), next(tmp_path.glob("cache/*.json"))
    content = bytearray(array.read_bytes())
    if damage == "flip":
        content[-5] ^= 1
        array.write_bytes(content)
    elif damage in ("cut", "empty"):
        array.write_bytes(content[:-5] if damage == "cut" else b"")
    elif damage == "no_side":
        side.unlink()
    elif damage == "half_side":
        side.write_bytes(side.read_bytes()[:20])
    elif damage == "other_side":
        side.write_text(json.dumps({**json.loads(side.read_text()), "preprocess": "0" * 64}))
    else:
        np.save(array, truth[:-1])
    again, decoded = load(tmp_path, asked)
    assert decoded == 6
    np.testing.assert_array_equal(again, truth)
    assert load(tmp_path, asked)[1] == 0


def test_a_load_that_fails_leaves_no_cache(tmp_path):
    asked = list(make_dataset(tmp_path / "dataset"))
    with pytest.raises(DatasetError, match="no image 0000"):
        load(tmp_path, [*asked, "0" * 64])
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_images_are_an_error(tmp_path):
    make_dataset(tmp_path / "dataset")
    with pytest.raises(ValueError, match="no images"):
        load(tmp_path, [])
