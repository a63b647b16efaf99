"""Sources that are tables: a CSV or Parquet manifest ``path,label[,group][,split][,sampling]``. Opens no image."""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from regraft.data.sources.entries import (
    SAMPLINGS,
    Entry,
    IntakeError,
    Listing,
    Refusal,
    clean_label,
    make_entry,
    show_path,
)
from regraft.data.sources.parts import name_parts

COLUMNS = ("path", "label", "group", "split", "sampling")
OTHER_NAMES = {
    "path": ("file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img", "img_path"),
    "label": ("class", "class_name", "category"),
}
"""Usual names of columns that a manifest must have; taken where it has one of them and not the column itself."""
MISSING = frozenset({"", "nan", "<na>"})

Row = tuple[int, dict[str, Any]]


def list_table(table: Path) -> Listing:
    """Return what a manifest lists; its paths are absolute or relative to the folder it lies in.

    Raises:
        IntakeError: With every problem of every row: unknown or double columns, missing files, empty labels.
    """
    problems: list[str] = []
    listed: list[tuple[int, Entry | Refusal]] = []
    rows = list(_read_parquet(table) if table.suffix.lower() == ".parquet" else _read_csv(table, problems))
    root = Path(os.path.realpath(table.parent))
    parts, notes = _name_parts(rows)
    for number, row in rows:
        if entry := _list_row(number, row, root, parts, problems):
            listed.append((number, entry))
    if not listed and not problems:
        problems.append("holds no rows")
    if problems:
        raise IntakeError(str(table), problems, "Correct the manifest; nothing was taken in.")
    listed.sort(key=lambda item: (item[1].path, item[1].label or "", item[0]))
    entries = [entry for _, entry in listed if isinstance(entry, Entry)]
    refused = [item for _, item in listed if isinstance(item, Refusal)]
    spellings = Counter(entry.label for entry in entries)
    empty = {
        item.label: f"none of its files may be opened ({item.path}: {item.detail})"
        for item in refused
        if item.label and not spellings[item.label]
    }
    return Listing(entries, refused, Counter(), empty, notes, spellings | dict.fromkeys(empty, 0))


def describe_table(table: Path) -> str:
    """Return how to learn from a table that lies among images, or what its first line lacks."""
    try:
        if table.suffix.lower() == ".csv":
            next(_read_csv(table, []), None)
        else:
            next(_read_parquet(table), None)
    except IntakeError as error:
        return f"{table} may have the labels; as a manifest it would need another form: {'; '.join(error.problems)}"
    return f"{table} may have the labels. To learn from it: regraft train --data {table}"


def _name_parts(rows: list[Row]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the part of each value of the column split, or of each top folder where there is no such column.

    Folders count only if all of them are parts and one is train: then they were made by somebody who divided them.
    """
    split = {text for _, row in rows if (text := _read_text(row.get("split")))}
    if split or any("split" in row for _, row in rows):
        return name_parts(split), ()
    folders = {_find_folder(row) for _, row in rows}
    parts = name_parts(folders)
    if len(folders) < 2 or parts.keys() != folders or "train" not in parts.values():
        return {}, ()
    shown = ", ".join(f"{name}/ {part}" for name, part in sorted(parts.items()))
    return parts, (f"given parts, from the folders in the paths: {shown}",)


def _find_folder(row: dict[str, Any]) -> str:
    """Return the top folder of a row's relative path; empty if there is none."""
    path = Path(_read_text(row.get("path")) or "")
    return path.parts[0] if len(path.parts) > 1 and not path.is_absolute() else ""


def _read_csv(table: Path, problems: list[str]) -> Iterator[Row]:
    """Yield (line number, row) of a UTF-8 CSV with or without a byte order mark, any line ends."""
    try:
        text = table.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise IntakeError(str(table), [f"cannot be read ({error.strerror or error})"]) from error
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
            wanted = {name: key for name, key in zip(file.schema_arrow.names, header, strict=True) if key in COLUMNS}
            rows = file.read(columns=list(wanted)).to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:  # damage shows as any of them
        first = (str(error).splitlines() or [type(error).__name__])[0]
        advice = "Write the file anew; a copy that was cut off looks like this."
        raise IntakeError(str(table), [f"not readable as Parquet: {first}"], advice) from error
    for number, row in enumerate(rows, start=1):
        yield number, {wanted[name]: value for name, value in row.items()}


def _check_header(table: Path, names: list[str]) -> list[str]:
    """Return what each column is called here: its own name in lower case, or the one it stands for."""
    header = [name.strip().lower() for name in names]
    for wanted, others in OTHER_NAMES.items():
        found = [name for name in header if name in others]
        if wanted not in header and len(found) == 1:
            header[header.index(found[0])] = wanted
    problems = [f"column {name!r} occurs {n} times" for name, n in Counter(header).items() if n > 1 and name]
    problems += [f"column {name!r} is missing" for name in COLUMNS[:2] if name not in header]
    if problems:
        advice = f"The columns are {', '.join(COLUMNS)}; found {', '.join(names) or 'none'}."
        raise IntakeError(str(table), problems, advice)
    return header


def _list_row(
    number: int, row: dict[str, Any], root: Path, parts: dict[str, str], problems: list[str]
) -> Entry | Refusal | None:
    """Return the entry of one row, or None after adding what is wrong with it to ``problems``."""
    path, label, group, split, sampling = (_read_text(row.get(name)) for name in COLUMNS)
    found = [f"row {number}: no {name}" for name, value in (("path", path), ("label", label)) if value is None]
    if split is not None and split not in parts:
        found.append(f"row {number}: split {split!r} is none of train, validation, test, nor a usual name of one")
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
    part = parts.get((split or "") if "split" in row else _find_folder(row))
    return make_entry(show_path(shown), file, clean_label(label), group and clean_label(group), part, roots, sampling)


def _read_text(value: Any) -> str | None:
    """Return a cell as text, whole numbers without ``.0``, or None when it says nothing."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = "" if value is None else str(value).strip()
    return None if text.lower() in MISSING else text
