"""Shards: content-addressed, stored once, checked when read."""

import hashlib
from pathlib import Path

import pytest

from regraft.data.dataset import shards
from regraft.data.dataset.manifest import SCHEMA, DatasetError, write_manifest
from regraft.data.dataset.shards import ShardWriter, read_images


def make_images(count: int, salt: str = "") -> dict[str, bytes]:
    images = [f"image {salt}{number}".encode() * 20 for number in range(count)]
    return {hashlib.sha256(image).hexdigest(): image for image in images}


def store(dataset: Path, *sources: dict[str, bytes]) -> ShardWriter:
    writer = ShardWriter(dataset)
    for images in sources:
        for sha256, image in images.items():
            writer.add(sha256, image)
        writer.close_shard()
    rows = [
        {**dict.fromkeys(SCHEMA.names), "sha256": sha256, "shard": shard, "shard_row": row}
        for sha256, (shard, row) in writer.places.items()
    ]
    write_manifest(dataset, rows)
    return writer


def test_images_come_back_in_the_asked_order(tmp_path):
    images = make_images(100)
    store(tmp_path, images)
    asked = [*reversed(images), next(iter(images))]
    assert list(read_images(tmp_path, asked)) == [images[sha256] for sha256 in asked]


def test_a_shard_is_named_by_the_hash_of_its_bytes(tmp_path):
    for name in store(tmp_path, make_images(5)).names:
        assert hashlib.sha256((tmp_path / "shards" / name).read_bytes()).hexdigest() + ".parquet" == name


def test_the_same_content_is_stored_once_and_no_shard_spans_two_sources(tmp_path):
    one, two = make_images(10), make_images(15)
    writer = store(tmp_path, one, two)
    assert len(writer.places) == 15
    assert len(list((tmp_path / "shards").iterdir())) == len(writer.names)
    shards_of_one = {writer.places[sha256][0] for sha256 in one}
    assert shards_of_one.isdisjoint({writer.places[sha256][0] for sha256 in set(two) - set(one)})


def test_one_more_image_changes_one_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "CUT_EVERY", 16)
    images = list(make_images(300).items())
    extra = list(make_images(1, "new").items())
    before = store(tmp_path / "a", dict(images)).names
    after = store(tmp_path / "b", dict(images[:150] + extra + images[150:])).names
    assert len(before) > 8
    assert len(set(before) - set(after)) == 1


def test_a_shard_is_bounded_in_rows_and_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "CUT_EVERY", 2**40)
    monkeypatch.setattr(shards, "MAX_ROWS", 7)
    assert len(store(tmp_path / "rows", make_images(20)).names) == 3
    monkeypatch.setattr(shards, "MAX_BYTES", 400)
    assert len(store(tmp_path / "bytes", make_images(20)).names) == 10


def test_reading_keeps_a_bounded_number_of_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "KEPT_BYTES", 1)
    images = make_images(100)
    store(tmp_path, images)
    assert list(read_images(tmp_path, list(images))) == list(images.values())


def test_an_image_that_is_not_there_is_named(tmp_path):
    store(tmp_path, make_images(3))
    with pytest.raises(DatasetError, match="no image 0000"):
        list(read_images(tmp_path, ["0" * 64]))


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "swap"])
def test_a_damaged_shard_is_noticed(tmp_path, damage):
    images = make_images(3)
    name = store(tmp_path, images).names[-1]
    shard = tmp_path / "shards" / name
    content = bytearray(shard.read_bytes())
    if damage == "flip":
        for sha256, image in images.items():
            if (at := content.find(image)) >= 0:
                content[at] ^= 1
                asked = sha256
        shard.write_bytes(content)
    else:
        asked = next(sha256 for sha256, place in store(tmp_path, images).places.items() if place[0] == name)
        shard.unlink()
        if damage == "cut":
            shard.write_bytes(content[:50])
        if damage == "swap":
            other = store(tmp_path / "other", make_images(9, "other")).names[-1]
            shard.write_bytes((tmp_path / "other/shards" / other).read_bytes())
    with pytest.raises(DatasetError, match="is damaged"):
        list(read_images(tmp_path, [asked]))
