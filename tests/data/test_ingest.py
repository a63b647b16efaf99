"""Ingest: every image is read once, measured, hashed and stored; the sources stay as they are."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regraft.data.dataset.ingest import IngestConfig, ingest_sources
from regraft.data.dataset.manifest import read_manifest
from regraft.data.dataset.read_image import read_entry
from regraft.data.dataset.shards import read_images
from regraft.data.sources.entries import IntakeError
from regraft.data.sources.sources import list_source, scan_source
from regraft.serving.decoding.quality import QUALITY_NAMES

LENIENT = IngestConfig(max_unreadable_share=1.0)


def make_image(seed: int, form: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (20, 16), **options) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, form, **options)
    return file.getvalue()


def make_source(root: Path, files: dict[str, bytes] | None = None, count: int = 3) -> Path:
    plain = {f"{label}/{n}.png": make_image(10 * i + n) for i, label in enumerate(("cat", "dog")) for n in range(count)}
    for name, content in (plain | (files or {})).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def ingest(source: Path, into: Path, config: IngestConfig = LENIENT, **options):
    return ingest_sources([scan_source(source, "origin")], into, config, **options)


def read_tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def read_reasons(dataset: Path) -> dict[str, str]:
    return {item["path"]: item["reason"] for item in json.loads((dataset / "quarantine.json").read_text())}


def test_every_image_has_a_row_and_its_bytes_are_kept(tmp_path):
    source = make_source(tmp_path / "source")
    seen = []
    summary = ingest(source, tmp_path / "dataset", progress=lambda done, total: seen.append((done, total)))
    frame = read_manifest(tmp_path / "dataset")
    assert list(frame["path"]) == sorted(frame["path"])
    assert (summary.images, summary.distinct, summary.quarantined) == (6, 6, 0)
    assert seen == [(n, 6) for n in range(1, 7)]
    images = list(read_images(tmp_path / "dataset", list(frame["sha256"])))
    assert images == [(source / path).read_bytes() for path in frame["path"]]
    assert set(zip(frame["width"], frame["height"], frame["mode"], frame["format"], strict=True)) == {
        (20, 16, "RGB", "PNG")
    }
    assert np.isfinite(frame[[f"q_{name}" for name in QUALITY_NAMES]].to_numpy()).all()


def test_the_source_stays_as_it_was(tmp_path):
    source = make_source(tmp_path / "source", {"cat/bad.jpg": b"bad"})
    before, times = read_tree(source), {path: path.stat().st_mtime_ns for path in source.rglob("*")}
    ingest(source, tmp_path / "dataset")
    assert read_tree(source) == before
    assert {path: path.stat().st_mtime_ns for path in source.rglob("*")} == times


def test_two_ingests_leave_the_same_bytes_wherever_the_source_is(tmp_path):
    for name in "ab":
        source = make_source(tmp_path / name / "source", {"cat/bad.jpg": b"bad", "cat/copy.png": make_image(0)})
        ingest(source, tmp_path / name / "dataset")
    assert read_tree(tmp_path / "a/dataset") == read_tree(tmp_path / "b/dataset")
    assert b"tmp" not in (tmp_path / "a/dataset/summary.json").read_bytes()


def test_modes_and_orientation_are_those_of_the_served_preprocessing(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        "cat/turned.jpg": make_image(1, "JPEG", exif=exif),
        "cat/cmyk.jpg": make_image(2, "JPEG", "CMYK"),
        "cat/palette.gif": make_image(3, "GIF", "P"),
        "cat/deep.png": make_image(4, "PNG", "I;16"),
        "cat/alpha.png": make_image(5, "PNG", "RGBA"),
        "cat/wrong_name.png": make_image(6, "JPEG"),
        "cat/animated.gif": make_image(
            7, "GIF", save_all=True, append_images=[Image.new("RGB", (20, 16), "red")], duration=9
        ),
    }
    summary = ingest(make_source(tmp_path / "source", files), tmp_path / "dataset")
    rows = read_manifest(tmp_path / "dataset").set_index("path")
    assert (rows.loc["cat/turned.jpg", "width"], rows.loc["cat/turned.jpg", "height"]) == (16, 20)
    assert rows.loc["cat/wrong_name.png", "format"] == "JPEG"
    assert {"CMYK", "RGBA", "I;16"} <= summary.modes.keys()
    assert (summary.animated, summary.quarantined) == (1, 0)


def test_what_cannot_be_read_is_quarantined_with_its_reason(tmp_path):
    jpeg = make_image(1, "JPEG", size=(64, 64))
    files = {
        "cat/cut.jpg": jpeg[: len(jpeg) // 2],
        "cat/empty.jpg": b"",
        "cat/huge.png": make_image(3, size=(300, 200)),
        "cat/long.png": make_image(4) + bytes(200_000),
        "cat/page.jpg": b"<!doctype html><p>not found",
        "cat/drawing.svg": b"<svg/>",
        "loose.png": make_image(5),
    }
    config = IngestConfig(max_unreadable_share=1, max_pixels=10_000, max_bytes=190_000)
    summary = ingest(make_source(tmp_path / "source", files), tmp_path / "dataset", config)
    assert read_reasons(tmp_path / "dataset") == {
        "cat/cut.jpg": "undecodable",
        "cat/drawing.svg": "unsupported",
        "cat/empty.jpg": "empty",
        "cat/huge.png": "too_large",
        "cat/long.png": "too_large",
        "cat/page.jpg": "unsupported",
        "loose.png": "no_label",
    }
    assert (summary.images, summary.quarantined, summary.unreadable_share) == (6, 7, round(7 / 13, 6))
    assert summary.reasons == {"empty": 1, "no_label": 1, "too_large": 2, "undecodable": 1, "unsupported": 2}


def test_a_file_that_changes_between_listing_and_reading_is_refused(tmp_path):
    source = make_source(tmp_path / "source")
    listing = list_source(source)
    changed = [source / entry.path for entry in listing.entries]
    changed[0].write_bytes(make_image(99, size=(30, 30)))
    os.utime(changed[1], ns=(1, 1))
    changed[2].unlink()
    changed[3].unlink()
    os.mkfifo(changed[3])
    changed[4].unlink()
    changed[4].symlink_to(changed[5])
    results = [read_entry(entry, max_bytes=10**6, max_pixels=10**6)[0] for entry in listing.entries]
    assert [getattr(result, "reason", None) for result in results] == [*["changed"] * 4, "unreadable", None]


def test_too_many_unreadable_files_stop_the_ingest_and_leave_nothing(tmp_path):
    source = make_source(tmp_path / "source", {"cat/bad.jpg": b"bad"})
    with pytest.raises(IntakeError) as caught:
        ingest(source, tmp_path / "dataset", IngestConfig(max_unreadable_share=0.14))
    for part in ("1 of 7", "14.3%", "cat/bad.jpg: unsupported", "ingest.max_unreadable_share=0.15"):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == [source]


def test_just_few_enough_unreadable_files_pass(tmp_path):
    source = make_source(tmp_path / "source", {"cat/bad.jpg": b"bad"})
    assert ingest(source, tmp_path / "dataset", IngestConfig(max_unreadable_share=0.15)).quarantined == 1


def test_a_source_without_one_readable_image_stops_even_the_lenient(tmp_path):
    bad = {f"{label}/{n}.jpg": b"bad" for label in ("cat", "dog") for n in range(2)}
    source = make_source(tmp_path / "source", bad, count=0)
    with pytest.raises(IntakeError, match="4 of 4"):
        ingest(source, tmp_path / "dataset")


def test_a_failed_ingest_leaves_the_earlier_dataset(tmp_path):
    source = make_source(tmp_path / "source")
    ingest(source, tmp_path / "dataset")
    before = read_tree(tmp_path / "dataset")
    make_source(source, {"cat/bad.jpg": b"bad"})
    with pytest.raises(IntakeError):
        ingest(source, tmp_path / "dataset", IngestConfig())
    assert read_tree(tmp_path / "dataset") == before


def test_sources_keep_their_order_and_duplicates_are_told(tmp_path):
    one = scan_source(make_source(tmp_path / "one", {"dog/zz.png": make_image(0)}), "one")
    two = scan_source(make_source(tmp_path / "two"), "two")
    summary = ingest_sources([two, one], tmp_path / "dataset", IngestConfig())
    frame = read_manifest(tmp_path / "dataset")
    assert list(frame["source"]) == ["two"] * 6 + ["one"] * 7
    assert (summary.images, summary.distinct, len(summary.duplicates)) == (13, 6, 7)
    assert ["cat/0.png", "dog/zz.png"] in summary.duplicates
    assert summary.sources["one"] == {"images": 7, "quarantined": 0, "ignored": 0}
    assert frame["shard"].nunique() == summary.shards


def test_groups_and_parts_of_a_manifest_reach_the_dataset(tmp_path):
    make_source(tmp_path / "source")
    table = tmp_path / "labels.csv"
    table.write_text("path,label,group,split\nsource/cat/0.png,a,lot 1,test\nsource/cat/1.png,b,,\n")
    summary = ingest(table, tmp_path / "dataset")
    rows = read_manifest(tmp_path / "dataset")
    assert list(zip(rows["label"], rows["group"], rows["given_part"], strict=True)) == [
        ("a", "lot 1", "test"),
        ("b", None, None),
    ]
    assert summary.parts == {"none": 1, "test": 1}


def test_a_killed_ingest_leaves_nothing_half_written_and_the_next_one_cleans_up(tmp_path):
    source = make_source(tmp_path / "source")
    program = """if True:
        import os, signal, sys
        from pathlib import Path
        from regraft.data.dataset.ingest import IngestConfig, ingest_sources
        from regraft.data.sources.sources import scan_source
        def kill(done, total):
            if done == 4:
                os.kill(os.getpid(), signal.SIGKILL)
        ingest_sources([scan_source(Path(sys.argv[1]), "origin")], Path(sys.argv[2]), IngestConfig(), progress=kill)
    """
    done = subprocess.run([sys.executable, "-c", program, str(source), str(tmp_path / "dataset")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "dataset").exists()
    assert len(list(tmp_path.iterdir())) == 2
    ingest(source, tmp_path / "dataset")
    ingest(source, tmp_path / "undisturbed")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "source", "undisturbed"]
    assert read_tree(tmp_path / "dataset") == read_tree(tmp_path / "undisturbed")


def test_the_leftovers_of_a_running_ingest_are_left_alone(tmp_path):
    running = tmp_path / f".dataset.{os.getppid()}.tmp"
    running.mkdir()
    ingest(make_source(tmp_path / "source"), tmp_path / "dataset")
    assert running.exists()


def test_a_subset_of_real_photographs_is_taken_in(shared, tmp_path):
    real = shared / "datasets/hymenoptera"
    chosen = [
        path
        for part in ("train", "val")
        for kind in ("ants", "bees")
        for path in sorted((real / part / kind).iterdir())[:3]
    ]
    lines = [f"{path},{path.parent.name},{path.parent.parent.name}" for path in chosen]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["path,label,split", *lines]))
    summary = ingest(table, tmp_path / "dataset", IngestConfig())
    assert (summary.images, summary.quarantined) == (12, 0)
    assert summary.parts == {"train": 6, "validation": 6}
