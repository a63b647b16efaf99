"""Sources that are tables: a CSV or Parquet manifest ``path,label[,group][,split][,sampling]``. Opens no image."""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.entries import PART_NAMES, SAMPLINGS, Entry, IntakeError, Listing, Refusal, clean_label, make_entry, show_path

COLUMNS = ("path", "label", "group", "split", "sampling")
MISSING = frozenset({"", "nan", "<na>"})

Row = tuple[int, dict[str, Any]]


def list_table(table: Path) -> Listing:
    """Return what a manifest lists; its paths are absolute or relative to the folder it lies in.

    Raises:
        IntakeError: With every problem of every row: unknown or double columns, missing files, empty labels.
    """
    problems: list[str] = []
    listed: list[tuple[int, Entry | Refusal]] = []
    rows = _read_parquet(table) if table.suffix.lower() == ".parquet" else _read_csv(table, problems)
    root = Path(os.path.realpath(table.parent))
    for number, row in rows:
        if entry := _list_row(number, row, root, problems):
            listed.append((number, entry))
    if not listed and not problems:
        problems.append("holds no rows")
    if problems:
        raise IntakeError(str(table), problems, "Correct the manifest; nothing was taken in.")
    listed.sort(key=lambda item: (item[1].path, item[1].label or "", item[0]))
    entries = [entry for _, entry in listed if isinstance(entry, Entry)]
    return Listing(entries, [item for _, item in listed if isinstance(item, Refusal)], Counter())


def _read_csv(table: Path, problems: list[str]) -> Iterator[Row]:
    """Yield (line number, row) of a UTF-8 CSV with or without a byte order mark, any line ends."""
    try:
        text = table.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise IntakeError(str(table), [f"not UTF-8 at byte {error.start}"], "Save it as CSV UTF-8.") from error
    head = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), strict=True)
    try:
        header = _check_header(table, next(reader, []))
        for values in reader:
            if not values:
                continue
            if len(values) == len(header):
                yield reader.line_num, dict(zip(header, values, strict=True))
            else:
                problems.append(f"line {reader.line_num}: {len(values)} fields where the header has {len(header)}")
    except csv.Error as error:
        raise IntakeError(str(table), [f"line {reader.line_num}: {error}"], "Is it CSV?") from error


def _read_parquet(table: Path) -> Iterator[Row]:
    """Yield (row number from 1, row) of a Parquet table."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(table) as file:
            header = _check_header(table, file.schema_arrow.names)
            wanted = [name for name, key in zip(file.schema_arrow.names, header, strict=True) if key in COLUMNS]
            rows = file.read(columns=wanted).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise IntakeError(str(table), [f"not readable as Parquet: {str(error).splitlines()[0]}"]) from error
    for number, row in enumerate(rows, start=1):
        yield number, {name.strip().lower(): value for name, value in row.items()}


def _check_header(table: Path, names: list[str]) -> list[str]:
    header = [name.strip().lower() for name in names]
    problems = [f"column {name!r} occurs {n} times" for name, n in Counter(header).items() if n > 1 and name]
    problems += [f"column {name!r} is missing" for name in COLUMNS[:2] if name not in header]
    if problems:
        advice = f"The columns are {', '.join(COLUMNS)}; found {', '.join(names) or 'none'}."
        raise IntakeError(str(table), problems, advice)
    return header


def _list_row(number: int, row: dict[str, Any], root: Path, problems: list[str]) -> Entry | Refusal | None:
    """Return the entry of one row, or None after adding what is wrong with it to ``problems``."""
    path, label, group, split, sampling = (_read_text(row.get(name)) for name in COLUMNS)
    found = [f"row {number}: no {name}" for name, value in (("path", path), ("label", label)) if value is None]
    if split is not None and split.lower() not in PART_NAMES:
        found.append(f"row {number}: split {split!r} is none of {', '.join(PART_NAMES)}")
    if sampling is not None and sampling not in SAMPLINGS:
        found.append(f"row {number}: sampling {sampling!r} is none of {', '.join(SAMPLINGS)}")
    file = root / path if path else root
    try:
        status = file.stat() if path else None
        if status and file.is_dir():
            found.append(f"row {number}: {path!r} is a folder")
    except (OSError, ValueError) as error:
        found.append(f"row {number}: {path!r} cannot be found ({getattr(error, 'strerror', None) or error})")
    if found or path is None or label is None:
        problems.extend(found)
        return None
    shown = os.path.relpath(file, root) if file.is_relative_to(root) else path
    roots = (root, Path(os.path.realpath(file.parent)))
    part = PART_NAMES[split.lower()] if split else None
    return make_entry(show_path(shown), file, clean_label(label), group and clean_label(group), part, roots, sampling)


def _read_text(value: Any) -> str | None:
    """Return a cell as text, whole numbers without ``.0``, or None when it says nothing."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = "" if value is None else str(value).strip()
    return None if text.lower() in MISSING else text
