"""A data set can be made again from itself: without its sources, and without reading twice what did not change."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from regraft.data.dataset import read_image as reading
from regraft.data.dataset.ingest import IngestConfig, ingest_sources
from regraft.data.dataset.manifest import read_manifest
from regraft.data.dataset.stored import STORED, find_lost, find_stored, list_stored
from regraft.data.sources.entries import IntakeError
from regraft.data.sources.sources import list_source, scan_source
from regraft.serving.files.durable import StorageError

LENIENT = IngestConfig(max_unreadable_share=1.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for label in ("cat", "dog"):
        for number in range(3):
            draw(root / label / f"{number}.png", 10 * len(label) + number + ord(label[0]))
    (root / "cat" / "bad.jpg").write_bytes(b"bad")
    (root / "cat" / "notes.txt").write_bytes(b"ignored")
    age(root)
    return root


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (16, 20, 3), dtype=np.uint8)).save(path)


def age(root: Path) -> None:
    for path in root.rglob("*"):
        os.utime(path, ns=(10**18, 10**18))


def read_tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the files that were really opened."""
    seen: list[str] = []
    read = reading._read_bytes

    def spy(entry):
        seen.append(entry.path)
        return read(entry)

    monkeypatch.setattr(reading, "_read_bytes", spy)
    return seen


def test_a_source_that_is_gone_gives_the_same_bytes_from_the_data_set(folder, tmp_path):
    source, into = scan_source(folder, "origin"), tmp_path / "dataset"
    ingest_sources([source], into, LENIENT)
    before = read_tree(into)
    shutil.rmtree(folder)
    stored = find_stored(into, source)
    assert (stored.kind, stored.files, stored.labels) == (STORED, 7, ("cat", "dog"))
    ingest_sources([stored], into, LENIENT)
    assert read_tree(into) == before
    assert json.loads(before["summary.json"])["ignored"] == {".txt": 1}


def test_a_folder_that_vanished_after_it_was_taken_in_loses_no_image(folder, tmp_path):
    source, into = scan_source(folder, "origin"), tmp_path / "dataset"
    ingest_sources([source], into, LENIENT)
    before = read_tree(into)
    folder.rename(tmp_path / "moved")
    ingest_sources([source], into, LENIENT)
    assert read_tree(into) == before


def test_a_gone_source_that_was_never_read_is_refused(folder, tmp_path):
    source, into = scan_source(folder, "origin"), tmp_path / "dataset"
    shutil.rmtree(folder)
    assert find_stored(into, source) is None
    with pytest.raises(IntakeError, match="does not exist"):
        ingest_sources([source], into, LENIENT)


def test_rows_of_another_origin_are_not_taken_for_the_new_one(folder, tmp_path):
    ingest_sources([scan_source(folder, "origin")], tmp_path / "dataset", LENIENT)
    for label in ("fox", "owl"):
        draw(tmp_path / "other" / label / "0.png", 1)
    assert find_stored(tmp_path / "dataset", scan_source(tmp_path / "other", "origin")) is None


def test_a_data_set_that_changed_since_is_not_taken_for_the_source(folder, tmp_path):
    source, into = scan_source(folder, "origin"), tmp_path / "dataset"
    ingest_sources([source], into, LENIENT)
    stored = find_stored(into, source)
    (folder / "cat" / "0.png").unlink()
    ingest_sources([scan_source(folder, "origin")], into, LENIENT)
    with pytest.raises(IntakeError, match="other images of it than when it was taken in"):
        list_stored(into, stored)


def test_only_what_is_new_is_read_and_the_bytes_are_those_of_a_fresh_ingest(folder, tmp_path, opened, monkeypatch):
    monkeypatch.setattr("regraft.data.dataset.stored.SETTLED_NS", -(10**10))
    into, known = tmp_path / "dataset", tmp_path / "files.parquet"
    ingest_sources([scan_source(folder, "origin")], into, LENIENT, known=known)
    assert len(opened) == 7
    opened.clear()
    draw(folder / "dog" / "new.png", 99)
    ingest_sources([scan_source(folder, "origin")], into, LENIENT, known=known)
    assert sorted(opened) == ["cat/bad.jpg", "dog/new.png"]
    ingest_sources([scan_source(folder, "origin")], tmp_path / "fresh", LENIENT)
    assert read_tree(into) == read_tree(tmp_path / "fresh")


def test_a_file_replaced_by_one_of_equal_size_and_time_is_read_again(folder, tmp_path, opened, monkeypatch):
    monkeypatch.setattr("regraft.data.dataset.stored.SETTLED_NS", -(10**10))
    into, known = tmp_path / "dataset", tmp_path / "files.parquet"
    for number in range(2):
        Image.new("RGB", (20, 16), (number, 0, 0)).save(folder / "dog" / "flat.bmp")
        age(folder)
        ingest_sources([scan_source(folder, "origin")], into, LENIENT, known=known)
    assert opened.count("dog/flat.bmp") == 2
    ingest_sources([scan_source(folder, "origin")], tmp_path / "fresh", LENIENT)
    assert read_tree(into) == read_tree(tmp_path / "fresh")


def test_a_file_that_changed_a_moment_ago_is_not_relied_on(folder, tmp_path, opened):
    into, known = tmp_path / "dataset", tmp_path / "files.parquet"
    for _ in range(2):
        ingest_sources([scan_source(folder, "origin")], into, LENIENT, known=known)
    assert len(opened) == 14


def test_a_damaged_table_of_known_files_costs_only_time(folder, tmp_path, opened):
    into, known = tmp_path / "dataset", tmp_path / "files.parquet"
    known.write_bytes(b"PAR1 torn")
    ingest_sources([scan_source(folder, "origin")], into, LENIENT, known=known)
    ingest_sources([scan_source(folder, "origin")], into, LENIENT, known=known)
    assert len(read_manifest(into)) == 6


def test_lost_files_are_named(folder, tmp_path):
    source, into = scan_source(folder, "origin"), tmp_path / "dataset"
    ingest_sources([source], into, LENIENT)
    (folder / "cat" / "1.png").unlink()
    draw(folder / "dog" / "new.png", 5)

    assert find_lost(into, source, list_source(folder)) == ["cat/1.png"]


def test_an_ingest_killed_between_its_two_renames_loses_nothing(folder, tmp_path):
    source, into = scan_source(folder, "origin"), tmp_path / "dataset"
    ingest_sources([source], into, LENIENT)
    before, stored = read_tree(into), find_stored(into, source)
    shutil.rmtree(folder)
    into.rename(tmp_path / ".dataset.999999999.old")
    ingest_sources([stored], into, LENIENT)
    assert read_tree(into) == before


def test_a_disk_without_room_is_told_before_anything_is_read(folder, tmp_path, opened, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(StorageError, match=r"about .* MiB are needed"):
        ingest_sources([scan_source(folder, "origin")], tmp_path / "dataset", LENIENT)
    assert opened == []
    assert list(tmp_path.iterdir()) == [folder]


def test_a_corrected_label_is_the_folders_own_when_the_source_is_read_from_the_data_set(folder, tmp_path):
    said = folder / "cat" / "0.png"
    batch = tmp_path / "batch" / "manifest.csv"
    batch.parent.mkdir()
    shutil.copyfile(said, batch.parent / "0.png")
    batch.write_text("path,label,sampling\n0.png,dog,random\n")
    sources, into = [scan_source(folder, "origin"), scan_source(batch, "b1")], tmp_path / "dataset"
    ingest_sources(sources, into, LENIENT)
    before = read_tree(into)
    assert json.loads(before["corrections.json"])[0]["was"] == "cat"
    assert find_lost(into, sources[0], list_source(folder)) == []
    shutil.rmtree(folder)
    shutil.rmtree(batch.parent)
    ingest_sources([find_stored(into, source) for source in sources], into, LENIENT)
    assert read_tree(into) == before


def test_a_data_set_of_an_earlier_version_gives_its_images_too(folder, tmp_path):
    source, into = scan_source(folder, "origin"), tmp_path / "dataset"
    ingest_sources([source], into, LENIENT)
    manifest = into / "manifest.parquet"
    pq.write_table(pq.read_table(pa.BufferReader(manifest.read_bytes())).drop_columns(["sampling", "peak"]), manifest)
    (into / "corrections.json").unlink()
    shutil.rmtree(folder)
    stored = find_stored(into, source)
    assert ingest_sources([stored], into, LENIENT).images == 6
    assert find_stored(into, source) == stored
