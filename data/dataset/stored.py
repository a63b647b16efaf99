"""What a data set holds of its sources, so that it can be made again without them, or with only what is new.

Labels and order come from the manifest, bytes from the shards; they are measured again by whoever asks for them.
"""

import contextlib
import hashlib
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from regraft.data.dataset.manifest import MANIFEST, DatasetError, encode_table, read_manifest
from regraft.data.dataset.shards import ShardReader
from regraft.data.sources.entries import Entry, IntakeError, Listing, Refusal
from regraft.data.sources.sources import Source
from regraft.serving.files.durable import write_bytes

STORED = "stored"
"""Kind of a source whose images come from the data set as it stands."""
SETTLED_NS = 2 * 10**9
"""A file that changed less than this before it was read could change again within one tick of its clock."""
KNOWN_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("ctime_ns", pa.int64()),
        ("sha256", pa.string()),
    ]
)
ROW = ("sha256", "path", "source", "label", "group", "given_part", "sampling", "bytes")
"""What is taken from a manifest; everything else is measured again."""
Signature = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEntry(Entry):
    """An image that the data set holds; ``file`` is where it once lay."""

    sha256: str


def find_stored(dataset: Path, source: Source) -> Source | None:
    """Return ``source`` as the data set holds it, or None if it holds nothing of it, or images of another source.

    The fingerprint is that of the rows (path, label, group, part, content), so it is equal on every machine.
    """
    if not (dataset / MANIFEST).exists():
        return None
    listing = _list_rows(dataset, source)
    labels = {entry.label for entry in listing.entries}
    if not labels or not labels <= set(source.labels):
        return None  # an origin that was named but never read has the same name as the one before
    files = len(listing.entries) + len(listing.refused)
    fingerprint = _fingerprint(listing)
    return replace(source, kind=STORED, fingerprint=fingerprint, files=files, labels=tuple(sorted(labels)))


def list_stored(dataset: Path, source: Source) -> Listing:
    """Return what the data set holds of a source of the kind ``STORED``.

    Raises:
        IntakeError: If it holds something else than when the source was taken in.
    """
    try:
        listing = _list_rows(dataset, source)
    except DatasetError as error:
        raise IntakeError(str(source.path), [f"is to be read from the data set, but {error}"], _ADVICE) from error
    if _fingerprint(listing) != source.fingerprint:
        problem = f"is to be read from the data set {dataset}, which holds other images of it than when it was taken in"
        raise IntakeError(str(source.path), [problem], _ADVICE)
    return listing


def find_lost(dataset: Path, source: Source, listing: Listing) -> list[str]:
    """Return the paths that the data set holds of ``source`` and that ``listing`` does not give any more."""
    if not (dataset / MANIFEST).exists():
        return []
    listed = {(item.path, item.label) for item in [*listing.entries, *listing.refused]}
    return [entry.path for entry in _list_rows(dataset, source).entries if (entry.path, entry.label) not in listed]


_ADVICE = "Get the data set of the last version back with: regraft pull. Or name the images: regraft train --data DIR"


def _list_rows(dataset: Path, source: Source) -> Listing:
    rows = [row for row in _read_rows(dataset) if row["source"] == source.name]
    entries: list[Entry] = [
        StoredEntry(
            path=row["path"],
            file=source.path / row["path"],
            label=row["label"],
            group=row["group"],
            part=row["given_part"],
            size=row["bytes"],
            mtime_ns=0,
            sampling=row["sampling"],
            sha256=row["sha256"],
        )
        for row in rows
    ]
    refused = [
        Refusal(item["path"], item["label"], item["reason"], item["detail"])
        for item in _read_json(dataset / "quarantine.json", [])
        if item["source"] == source.name
    ]
    return Listing(entries, refused, _read_ignored(dataset, source.name))


def _read_rows(dataset: Path) -> list[dict[str, Any]]:
    """Return the rows with the labels that their sources gave: what production corrected is corrected again.

    A manifest of an earlier version lacks columns; what they say was not known of its images.
    """
    try:
        there = pq.read_schema(dataset / MANIFEST).names
    except (OSError, pa.ArrowException):
        there = list(ROW)  # the reader says what is wrong
    rows = read_manifest(dataset, [name for name in ROW if name in there]).to_dict("records")
    was = {
        (item["source"], item["path"], item["sha256"]): item["was"]
        for item in _read_json(dataset / "corrections.json", [])
    }
    absent = dict.fromkeys(name for name in ROW if name not in there)
    return [
        absent | row | {"label": was.get((row["source"], row["path"], row["sha256"]), row["label"])} for row in rows
    ]


def _read_ignored(dataset: Path, name: str) -> Counter[str]:
    """Return the files that were ignored, by extension; only the user's folder has any, a manifest has none."""
    summary = _read_json(dataset / "summary.json", {})
    ignored = summary.get("sources", {}).get(name, {}).get("ignored", 0)
    return Counter(summary.get("ignored", {})) if ignored else Counter()


def _fingerprint(listing: Listing) -> str:
    digest = hashlib.sha256()
    for entry in listing.entries:
        content = entry.sha256 if isinstance(entry, StoredEntry) else ""
        digest.update(json.dumps([entry.path, entry.label, entry.group, entry.part, content]).encode())
    for item in listing.refused:
        digest.update(json.dumps([item.path, item.label, item.reason]).encode())
    return digest.hexdigest()


def _read_json(path: Path, default: Any) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return default
    except ValueError as error:
        raise DatasetError(f"{path} is damaged ({error}); restore it with regraft pull") from error


class Stock:
    """Bytes that need not be read from a source: those of ``dataset``, found by content, or by a file seen before.

    Safe for several threads.
    """

    def __init__(self, dataset: Path, known: Path | None = None) -> None:
        """Open the stock.

        Args:
            dataset: The data set as it stands; it may be absent.
            known: Table of the files that were read into it, safe to delete; None to read all files again.
        """
        self._path, self._began_ns = known, time.time_ns()
        self._reader = ShardReader(dataset) if (dataset / MANIFEST).exists() else None
        self._known = _read_known(known) if self._reader else {}
        self._seen: dict[str, tuple[Signature, str]] = {}
        self._lock = threading.Lock()

    def find(self, entry: Entry) -> bytes | None:
        """Return the bytes of ``entry``, or None if its file must be read.

        Raises:
            DatasetError: If only the data set could hold it, and does not.
        """
        if isinstance(entry, StoredEntry):
            if self._reader is None:
                raise DatasetError(f"no data set holds {entry.path}; get it back with: regraft pull")
            return self._read(entry.sha256)
        signature, sha256 = self._known.get(str(entry.file), (None, ""))
        if self._reader is None or signature is None or sha256 not in self._reader.places or signature != _sign(entry):
            return None
        with contextlib.suppress(DatasetError):  # a damaged shard: the file is there
            return self._read(sha256)
        return None

    def note(self, entry: Entry, sha256: str) -> None:
        """Remember the content of a file that was read or found, unless it may still be changing."""
        if self._path is None or isinstance(entry, StoredEntry):
            return
        signature = _sign(entry)
        if signature is not None and max(signature[1:]) < self._began_ns - SETTLED_NS:
            self._seen[str(entry.file)] = (signature, sha256)

    def save(self) -> None:
        """Write what was noted, for the next time."""
        if self._path is not None:
            rows = [
                {"file": file, "size": size, "mtime_ns": mtime, "ctime_ns": ctime, "sha256": sha256}
                for file, ((size, mtime, ctime), sha256) in self._seen.items()
            ]
            write_bytes(self._path, encode_table(pa.Table.from_pylist(rows, schema=KNOWN_SCHEMA)))

    def _read(self, sha256: str) -> bytes:
        assert self._reader is not None
        with self._lock:
            return self._reader.read(sha256)


def _sign(entry: Entry) -> Signature | None:
    """Return what changes with a file's content, or None if it is not the file that was listed."""
    try:
        status = entry.file.lstat()
    except OSError:
        return None
    listed = (status.st_size, status.st_mtime_ns) == (entry.size, entry.mtime_ns)
    return (entry.size, entry.mtime_ns, status.st_ctime_ns) if listed else None


def _read_known(path: Path | None) -> dict[str, tuple[Signature, str]]:
    """Return file -> (signature, content); nothing if the table is absent, damaged or of another make."""
    if path is None:
        return {}
    try:
        rows = pq.read_table(pa.BufferReader(path.read_bytes()), schema=KNOWN_SCHEMA).to_pylist()
    except (OSError, pa.ArrowException):
        return {}
    return {row["file"]: ((row["size"], row["mtime_ns"], row["ctime_ns"]), row["sha256"]) for row in rows}
