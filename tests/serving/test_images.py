"""Kept images: by content, within the quota, oldest out."""

import os

from regraft.serving.log.image_store import ImageStore


def test_an_image_is_kept_once_and_read_by_its_hash(tmp_path):
    store = ImageStore(tmp_path / "images", 1000)
    sha256 = store.keep(b"pixels")
    assert store.keep(b"pixels") == sha256 and store.read(sha256) == b"pixels"
    assert len([path for path in store.folder.rglob("*") if path.is_file()]) == 1
    assert store.read("0" * 64) is None


def test_a_store_that_is_off_names_images_but_keeps_none(tmp_path):
    store = ImageStore(tmp_path / "images", 0)
    assert store.keep(b"pixels") == ImageStore.name(b"pixels")
    assert not store.folder.exists() and not store.is_on


def test_the_oldest_leave_first_and_the_quota_holds(tmp_path):
    store = ImageStore(tmp_path / "images", 1000)
    names = []
    for number in range(15):
        names.append(store.keep(bytes([number]) * 100))
        os.utime(store.path(names[-1]), (number, number))
        assert sum(path.stat().st_size for path in store.folder.rglob("*") if path.is_file()) <= 1000
    kept = [store.read(name) is not None for name in names]
    assert kept == sorted(kept) and 9 <= sum(kept) <= 10


def test_a_labelled_image_outlives_older_unlabelled_ones(tmp_path):
    store = ImageStore(tmp_path / "images", 1000)
    names = [store.keep(bytes([number]) * 100) for number in range(10)]
    for number, name in enumerate(names):
        os.utime(store.path(name), (number, number))
    store.touch(names[0])
    store.keep(b"x" * 100)
    assert store.read(names[0]) is not None and store.read(names[1]) is None


def test_the_newest_image_stays_even_if_the_clock_was_set_back(tmp_path):
    store = ImageStore(tmp_path / "images", 1000)
    for number in range(10):
        os.utime(store.path(store.keep(bytes([number]) * 100)), (4e9, 4e9))
    assert store.read(store.keep(b"x" * 100)) is not None


def test_a_restarted_store_counts_what_is_there(tmp_path):
    ImageStore(tmp_path / "images", 1000).keep(b"a" * 600)
    store = ImageStore(tmp_path / "images", 1000)
    store.keep(b"b" * 600)
    assert sum(path.stat().st_size for path in store.folder.rglob("*") if path.is_file()) == 600


def test_an_image_larger_than_the_quota_is_not_kept(tmp_path):
    store = ImageStore(tmp_path / "images", 10)
    assert store.read(store.keep(b"x" * 11)) is None


def test_a_damaged_image_is_not_handed_out(tmp_path):
    store = ImageStore(tmp_path / "images", 1000)
    sha256 = store.keep(b"pixels")
    store.path(sha256).write_bytes(b"pixelz")
    assert store.read(sha256) is None


def test_a_torn_image_is_repaired_when_it_comes_again_and_the_quota_still_holds(tmp_path):
    store = ImageStore(tmp_path / "images", 1000)
    sha256 = store.keep(b"p" * 300)
    for torn in (b"", b"p" * 299, b"q" * 300, b"p" * 900):  # cut by a power loss, or changed by hand
        store.path(sha256).write_bytes(torn)
        assert store.read(sha256) is None
        assert store.keep(b"p" * 300) == sha256 and store.read(sha256) == b"p" * 300
    again = ImageStore(tmp_path / "images", 1000)
    again.path(sha256).write_bytes(b"")
    names = [again.keep(bytes([number]) * 300) for number in range(3)] + [again.keep(b"p" * 300)]
    assert sum(path.stat().st_size for path in again.folder.rglob("*") if path.is_file()) <= 1000
    assert again.read(names[-1]) is not None


def test_what_a_killed_process_was_writing_is_cleared_and_what_is_being_written_is_not(tmp_path):
    store = ImageStore(tmp_path / "images", 1000)
    folder = store.path(store.keep(b"pixels")).parent
    old, new = folder / ".a.1.tmp", folder / ".b.2.tmp"
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (1, 1))
    ImageStore(tmp_path / "images", 1000)
    assert not old.exists() and new.exists()
