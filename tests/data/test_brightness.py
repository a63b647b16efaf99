"""Brightness of a data set: deep files are as bright as the 8-bit original, on whatever scale they were saved."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from regraft.data.dataset import read_image as reading
from regraft.data.dataset.brightness import read_value_range
from regraft.data.dataset.ingest import IngestConfig, ingest_sources
from regraft.data.dataset.manifest import MANIFEST, encode_table, read_manifest
from regraft.data.dataset.pixel_cache import load_pixels
from regraft.data.dataset.summary import IngestSummary
from regraft.data.sources.sources import scan_source
from regraft.data.validation.expectations import ValidateConfig, validate_dataset
from regraft.serving.decoding.preprocess import PreprocessSpec
from regraft.serving.decoding.quality import QUALITY_NAMES
from regraft.serving.decoding.value_range import ValueRange

FIGURES = [f"q_{name}" for name in QUALITY_NAMES]


def draw(seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 256, (20, 24), dtype=np.uint8)
    values[0, 0] = 255
    return values


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def make_source(root: Path, scale: int | None = None, plain: tuple[str, ...] = ()) -> Path:
    """Write eight images of two classes; those not ``plain`` in 16-bit files, their values times ``scale``."""
    for kind, label in enumerate(("cat", "dog")):
        for number in range(4):
            values = draw(10 * kind + number)
            deep = scale is not None and label not in plain
            save(root / label / f"{number}.png", values.astype(np.uint16) * scale if deep else values)
    return root


def ingest(root: Path, into: Path) -> IngestSummary:
    return ingest_sources([scan_source(root, "origin")], into, IngestConfig())


def see(tmp_path: Path, name: str, **options) -> tuple[np.ndarray, np.ndarray, IngestSummary]:
    """Return pixels as the model sees them, quality figures and the summary of a source, by path."""
    dataset = tmp_path / name / "dataset"
    summary = ingest(make_source(tmp_path / name / "source", **options), dataset)
    rows = read_manifest(dataset).sort_values("path")
    spec = PreprocessSpec(size_px=20, fit="squash", interpolation="bilinear", value_range=read_value_range(dataset))
    return load_pixels(dataset, list(rows["sha256"]), spec, tmp_path / "cache"), rows[FIGURES].to_numpy(), summary


@pytest.mark.parametrize(
    ("scale", "bits", "plain"), [(1, 8, ()), (16, 12, ()), (257, 16, ()), (1, 8, ("cat",)), (16, 12, ("cat",))]
)
def test_16_bit_copies_are_seen_and_measured_as_their_8_bit_originals(tmp_path, scale, bits, plain):
    pixels, figures, _ = see(tmp_path, "original")
    deep_pixels, deep_figures, summary = see(tmp_path, "deep", scale=scale, plain=plain)
    assert np.array_equal(deep_pixels, pixels)
    assert np.array_equal(deep_figures, figures)
    assert summary.value_range == {"integer_bits": bits, "float_white": 1}
    assert summary.bits == {str(bits): 8 - 4 * len(plain)}
    assert (summary.constant, summary.dim, summary.notes) == (0, 0, [])


def test_a_data_set_without_deep_files_has_no_range_and_is_decoded_once(tmp_path, monkeypatch):
    calls = []
    original = reading.decode_image
    monkeypatch.setattr(reading, "decode_image", lambda *a, **o: calls.append(1) or original(*a, **o))
    _, _, summary = see(tmp_path, "original")
    assert (summary.value_range, summary.bits, len(calls)) == (None, {}, 8)
    see(tmp_path, "deep", scale=16)
    assert len(calls) == 16


def test_integers_and_floats_have_a_white_each(tmp_path):
    root = make_source(tmp_path / "source", scale=16)
    save(root / "cat" / "float.tif", draw(77).astype(np.float32))
    ingest(root, tmp_path / "dataset")
    assert read_value_range(tmp_path / "dataset") == ValueRange(integer_bits=12, float_white=255)


def test_images_on_another_scale_than_the_rest_are_named(tmp_path):
    root = make_source(tmp_path / "source", scale=257)
    for number in range(2):
        save(root / "dog" / f"low{number}.png", draw(50 + number).astype(np.uint16))
    summary = ingest(root, tmp_path / "dataset")
    assert (summary.dim, summary.dim_images) == (2, ["dog/low0.png", "dog/low1.png"])
    assert summary.constant == 2  # shifted by eight bits nothing of them is left
    assert any("dog/low1.png" in finding and "(65535 in files of integers)" in finding for finding in summary.notes)


def test_constant_images_are_counted_and_named(tmp_path):
    root = make_source(tmp_path / "source")
    save(root / "cat" / "black.png", np.zeros((20, 24), np.uint8))
    save(root / "dog" / "red.png", np.full((600, 700, 3), (200, 0, 0), np.uint8))
    nearly = np.full((1100, 1100, 3), 7, np.uint8)
    nearly[1001, 1001] = 8  # not on the grid that the figures are measured on
    save(root / "dog" / "nearly.png", nearly)
    summary = ingest(root, tmp_path / "dataset")
    assert (summary.constant, summary.constant_images) == (2, ["cat/black.png", "dog/red.png"])
    assert json.loads((tmp_path / "dataset/summary.json").read_text())["constant"] == 2
    verdict = validate_dataset(read_manifest(tmp_path / "dataset"), [], ValidateConfig(min_images_per_class=1))
    assert verdict.success  # advice: such an image may show an empty belt
    assert any("cat/black.png; dog/red.png" in remark and "remove those" in remark for remark in verdict.remarks)


def test_a_manifest_of_before_is_still_read_and_has_no_range(tmp_path):
    ingest(make_source(tmp_path / "source"), tmp_path / "dataset")
    path = tmp_path / "dataset" / MANIFEST
    path.write_bytes(encode_table(pq.read_table(path).drop_columns(["peak", "constant"])))
    assert read_value_range(tmp_path / "dataset") is None
    assert not read_manifest(tmp_path / "dataset")["constant"].any()


def test_what_an_older_version_sees_of_brighter_images_is_clipped_not_refused(tmp_path):
    dataset = tmp_path / "dataset"
    ingest(make_source(tmp_path / "source", scale=257), dataset)
    spec = PreprocessSpec(size_px=20, fit="squash", interpolation="bilinear", value_range=ValueRange(integer_bits=12))
    pixels = load_pixels(dataset, list(read_manifest(dataset)["sha256"]), spec, tmp_path / "cache")
    assert pixels.mean() > 230


def test_a_range_is_part_of_the_key_under_which_pixels_are_kept(tmp_path):
    dataset = tmp_path / "dataset"
    ingest(make_source(tmp_path / "source", scale=16), dataset)
    hashes = list(read_manifest(dataset)["sha256"])
    plain = PreprocessSpec(size_px=20, fit="squash", interpolation="bilinear")
    ranged = plain.model_copy(update={"value_range": read_value_range(dataset)})
    dark, bright = (load_pixels(dataset, hashes, spec, tmp_path / "cache") for spec in (plain, ranged))
    assert dark.max() <= 15 and bright.max() > 200
