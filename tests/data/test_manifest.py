"""The manifest: same rows, same bytes; missing cells are None."""

import pyarrow as pa
import pytest

from regraft.data.dataset.manifest import MANIFEST, SCHEMA, DatasetError, encode_table, read_manifest, write_manifest
from regraft.serving.decoding.quality import QUALITY_NAMES


def make_row(**values):
    row = dict.fromkeys(SCHEMA.names) | {"sha256": "a" * 64, "path": "cat/a.jpg", "label": "cat", "width": 8}
    return row | {f"q_{name}": 0.5 for name in QUALITY_NAMES} | values


def test_rows_come_back_with_none_for_missing_cells(tmp_path):
    write_manifest(tmp_path, [make_row(), make_row(group="lot", given_part="test")])
    frame = read_manifest(tmp_path)
    assert list(frame.columns) == SCHEMA.names
    assert list(frame["group"]) == [None, "lot"]
    assert list(frame["given_part"]) == [None, "test"]
    assert frame["q_brightness"].dtype == "float32"


def test_only_the_asked_columns_are_read(tmp_path):
    write_manifest(tmp_path, [make_row()])
    assert list(read_manifest(tmp_path, ["label", "sha256"]).columns) == ["label", "sha256"]


def test_equal_rows_give_equal_bytes(tmp_path):
    for name in "ab":
        write_manifest(tmp_path / name, [make_row(), make_row(group="lot")])
    assert (tmp_path / "a" / MANIFEST).read_bytes() == (tmp_path / "b" / MANIFEST).read_bytes()
    assert b"pandas" not in (tmp_path / "a" / MANIFEST).read_bytes()


def test_an_empty_manifest_keeps_its_columns(tmp_path):
    write_manifest(tmp_path, [])
    assert list(read_manifest(tmp_path).columns) == SCHEMA.names


def test_a_missing_or_damaged_manifest_says_what_to_run(tmp_path):
    with pytest.raises(DatasetError, match="run the stage ingest first"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST).write_bytes(b"nonsense")
    with pytest.raises(DatasetError, match="run the stage ingest again"):
        read_manifest(tmp_path)


def test_a_manifest_without_a_column_is_refused(tmp_path):
    (tmp_path / MANIFEST).write_bytes(encode_table(pa.table({"sha256": ["a"]})))
    with pytest.raises(DatasetError, match="has no column label, group"):
        read_manifest(tmp_path, ["sha256", "label", "group"])
