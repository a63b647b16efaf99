"""Which sources a workspace learns from, with a fingerprint of each that says when it changed.

Nothing here opens an image; ``data/dataset/ingest.py`` does.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from regraft.data.sources.entries import Entry, IntakeError, Listing, Refusal
from regraft.data.sources.folders import list_folder
from regraft.data.sources.layout import Layout
from regraft.data.sources.spelling import settle_spellings
from regraft.data.sources.tables import list_table
from regraft.serving.files.durable import write_json

logger = logging.getLogger(__name__)

TABLES = (".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class Source:
    """A folder or manifest of labelled images, outside of the workspace and never written to.

    ``fingerprint`` is the SHA-256 of the sorted (path, size, modification time) of its files and of a manifest's bytes.
    ``layout`` is how it was read, ``empty`` says why each class that it names without an image has none, ``allowed``
    are the classes whose loss the user allowed by name, ``notes`` what to tell about it for as long as it is known,
    ``without`` the labels whose images are passed over because the origin has no such class any more.
    """

    name: str
    path: Path
    kind: str
    fingerprint: str
    files: int
    labels: tuple[str, ...]
    layout: Layout = field(default_factory=Layout)
    empty: Mapping[str, str] = field(default_factory=dict)
    allowed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


def scan_source(path: Path, name: str, layout: Layout | None = None, known: Collection[str] = ()) -> Source:
    """Return the source at ``path``, listed but not read.

    Args:
        path: A folder (a folder per class, also under train/, val/, test/) or a CSV or Parquet manifest.
        name: What reports call it; unique in a workspace.
        layout: What the user says about how to read it.
        known: Labels that a model knows already, preferred where spellings are merged.

    Raises:
        IntakeError: With all problems: nothing there, no classes, a manifest with bad rows, two ways to read it.
    """
    path = Path(path).expanduser().resolve()
    layout = layout or Layout()
    listing, spellings = _list_settled(path, layout, known)
    labels = sorted({entry.label for entry in listing.entries})
    files = len(listing.entries) + len(listing.refused)
    kind = "folder" if path.is_dir() else "manifest"
    logger.info("scan done source=%s kind=%s files=%d classes=%d", name, kind, files, len(labels))
    for note in listing.notes:
        logger.warning("%s: %s", name, note)
    layout = replace(layout, alike=None, spellings=tuple(sorted(spellings.items())))
    fingerprint = fingerprint_listing(path, listing)
    return Source(name, path, kind, fingerprint, files, tuple(labels), layout, dict(listing.empty))


def list_source(path: Path, layout: Layout | None = None) -> Listing:
    """Return every file that the folder or manifest at ``path`` gives.

    Raises:
        IntakeError: As ``scan_source``.
    """
    return _list_settled(path, layout or Layout(), ())[0]


def _list_settled(path: Path, layout: Layout, known: Collection[str]) -> tuple[Listing, dict[str, str]]:
    """Return the listing with look-alike class names settled, and the label of each such name."""
    listing = _list_kind(path, layout)
    spellings = settle_spellings(str(path), listing.spellings, dict(layout.spellings), layout.alike, known)
    if not spellings:
        return listing, spellings
    entries = [replace(entry, label=spellings.get(entry.label, entry.label)) for entry in listing.entries]
    found = {entry.label for entry in entries}
    empty = {spellings.get(label, label): why for label, why in listing.empty.items()}
    empty = {label: why for label, why in empty.items() if label not in found}
    merged = Counter(label for label in spellings.values() if list(spellings.values()).count(label) > 1)
    notes = [
        f"{count} spellings of the class {label!r} were merged: "
        + ", ".join(repr(name) for name, to in sorted(spellings.items()) if to == label)
        for label, count in sorted(merged.items())
    ]
    return replace(listing, entries=entries, empty=empty, notes=(*listing.notes, *notes)), spellings


def _list_kind(path: Path, layout: Layout) -> Listing:
    if path.is_dir():
        return list_folder(path, layout)
    if not path.exists():
        raise IntakeError(str(path), ["does not exist"], "Name a folder with a folder per class, or a manifest.")
    if not path.is_file() or path.suffix.lower() not in TABLES:
        raise IntakeError(str(path), [f"is neither a folder nor a manifest ({', '.join(TABLES)})"])
    return list_table(path)


def fingerprint_listing(path: Path, listing: Listing) -> str:
    """Return the hash that changes when a file of the source is added, removed, touched or resized."""
    digest = hashlib.sha256(path.read_bytes() if path.is_file() else b"")
    for item in [*listing.entries, *listing.refused]:
        digest.update(_describe(item).encode())
    return digest.hexdigest()


def _describe(item: Entry | Refusal) -> str:
    state = (item.size, item.mtime_ns) if isinstance(item, Entry) else (item.reason,)
    return json.dumps([item.path, *state])


def check_sources(sources: list[Source]) -> None:
    """Refuse a set of sources that nothing can be learnt from.

    Raises:
        IntakeError: If there is none, two share a name, or together they hold fewer than two classes.
    """
    names = [source.name for source in sources]
    labels = sorted({label for source in sources for label in source.labels})
    problems = [f"two sources are called {name!r}" for name in sorted({n for n in names if names.count(n) > 1})]
    if not sources:
        problems.append("no source is given")
    elif len(labels) < 2:
        problems.append(f"only one class, {labels[0]!r}: a classifier needs at least two" if labels else "no classes")
    if problems:
        raise IntakeError(", ".join(str(source.path) for source in sources) or "intake", problems)


def write_intake(path: Path, sources: list[Source]) -> None:
    """Write the sources, in order, to ``path``.

    Raises:
        IntakeError: As ``check_sources``; then nothing is written.
    """
    check_sources(sources)
    write_json(path, {"sources": [{**asdict(source), "path": str(source.path)} for source in sources]})


def read_intake(path: Path) -> list[Source]:
    """Return the sources written by ``write_intake``.

    Raises:
        IntakeError: If the file is missing or is not an intake file.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["sources"]
        return [_read_source(row) for row in rows]
    except FileNotFoundError as error:
        raise IntakeError(str(path), ["no data was taken in yet"], "Run regraft train --data DIR first.") from error
    except (ValueError, KeyError, TypeError) as error:
        problem = f"is not an intake file ({error})"
        raise IntakeError(str(path), [problem], "Run regraft train --data DIR again.") from error


def _read_source(row: dict[str, Any]) -> Source:
    """Return one source of the file; those written before a field existed have its default."""
    layout = row.get("layout") or {}
    pairs = tuple((name, label) for name, label in layout.get("spellings", ()))
    lists = {name: tuple(row[name]) for name in ("labels", "allowed", "notes", "without") if name in row}
    changed = {"path": Path(row["path"]), "layout": Layout(**{**layout, "spellings": pairs})}
    return Source(**{**row, **lists, **changed})
