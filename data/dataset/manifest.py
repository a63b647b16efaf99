"""The manifest of a dataset: one row per readable image file, ordered by source, then path."""

import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from regraft.serving.decoding.quality import QUALITY_NAMES
from regraft.serving.files.durable import write_bytes

MANIFEST = "manifest.parquet"
NULLABLE = {"group", "given_part", "sampling", "look"}
ADDED = {"peak": float("nan"), "constant": False, "sampling": None, "look": None}
"""Columns that older data sets lack, with what they say there. ``peak`` is the largest value of a file deeper than 8
bits, empty for others; ``constant`` says that all pixels are equal; ``sampling`` how a production image was drawn;
``look`` is its perceptual hash."""
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("sha256", "path", "source", "label", "group", "given_part", "sampling")]
    + [("width", pa.int32()), ("height", pa.int32()), ("mode", pa.string()), ("format", pa.string())]
    + [("frames", pa.int32()), ("bytes", pa.int64()), ("look", pa.string())]
    + [("peak", pa.float64()), ("constant", pa.bool_())]
    + [(f"q_{name}", pa.float32()) for name in QUALITY_NAMES]
    + [("shard", pa.string()), ("shard_row", pa.int32())]
)


class DatasetError(RuntimeError):
    """A dataset on disk that is missing, damaged or of another shape than this code writes."""

    exit_code = 1


def encode_table(table: pa.Table) -> bytes:
    """Return Parquet bytes that depend on the values alone: no pandas metadata, one row group size."""
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(None), sink, compression="zstd", row_group_size=65_536)
    return sink.getvalue()


def write_manifest(dataset: Path, rows: list[dict[str, object]]) -> None:
    """Write ``rows``, each with the fields of ``SCHEMA``, as the manifest of ``dataset``."""
    write_bytes(dataset / MANIFEST, encode_table(pa.Table.from_pylist(rows, schema=SCHEMA)))


def read_manifest(dataset: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the manifest; a missing ``group``, ``given_part`` or ``sampling`` is None.

    Args:
        dataset: The folder that ingest wrote.
        columns: Only these, in this order; None for all of ``SCHEMA``.

    Raises:
        DatasetError: If the manifest is missing, unreadable or lacks a column.
    """
    path = dataset / MANIFEST
    wanted = list(columns or SCHEMA.names)
    try:
        with pq.ParquetFile(path) as file:  # read_table would take "a=b" in the path for a column
            frame = file.read(columns=wanted).to_pandas()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DatasetError(f"{path} does not exist; run the stage ingest first") from error
    except pa.ArrowInvalid as error:
        raise DatasetError(f"{path} cannot be read ({error}); run the stage ingest again") from error
    frame = frame.assign(**{name: value for name, value in ADDED.items() if name in wanted and name not in frame})
    if missing := [name for name in wanted if name not in frame]:
        raise DatasetError(f"{path} has no column {', '.join(missing)}; run the stage ingest again")
    nullable = {name: frame[name].astype(object).where(frame[name].notna(), None) for name in NULLABLE & set(frame)}
    return frame.assign(**nullable)[wanted]
