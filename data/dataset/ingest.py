"""From sources to a dataset: every image is opened, measured, hashed and copied into shards; sources are only read.

What cannot be read goes to ``quarantine.json`` with its reason. Checks on the rest are in
``data/validation/expectations.py``.
"""

import itertools
import logging
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, Field

from regraft.data.dataset.brightness import settle_brightness
from regraft.data.dataset.corrections import correct_labels
from regraft.data.dataset.manifest import write_manifest
from regraft.data.dataset.read_image import Row, read_entry
from regraft.data.dataset.shards import ShardWriter
from regraft.data.dataset.stored import STORED, Stock, find_stored, list_stored
from regraft.data.dataset.summary import IngestSummary, describe_sources, summarise_dataset
from regraft.data.sources.entries import Entry, IntakeError, Listing, Refusal
from regraft.data.sources.sources import Source, check_sources, fingerprint_listing, list_source
from regraft.serving.decoding.preprocess import MAX_PIXELS, MOST_PIXELS
from regraft.serving.files.durable import StorageError, replace_folder, write_json

logger = logging.getLogger(__name__)

THREADS = 2  # Pillow and numpy release the interpreter lock while they work
AHEAD = 64  # images in flight; bounds the memory
Progress = Callable[[int, int], None]
Item = TypeVar("Item")
Result = TypeVar("Result")


class IngestConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What is read, and how much may be unreadable."""

    max_unreadable_share: float = Field(0.01, ge=0, le=1)
    """Share of the listed images that may be unreadable before ingest stops."""
    max_pixels: int = Field(MAX_PIXELS, ge=1, le=MOST_PIXELS)
    """Width times height above which no image is decoded: not here, not by ``regraft predict``, not by the endpoint,
    which answers 413. At most 100,000,000; decoding such an image takes about 0.7 GB."""
    max_bytes: int = Field(64 * 2**20, ge=1)
    """File size above which an image is not read."""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One listed file that is not in the dataset; ``reason`` is a code, ``detail`` says what to do."""

    source: str
    path: str
    label: str | None
    reason: str
    detail: str


def ingest_sources(
    sources: list[Source],
    into: Path,
    config: IngestConfig,
    *,
    known: Path | None = None,
    progress: Progress | None = None,
) -> IngestSummary:
    """Read every image of ``sources`` and put the dataset at ``into``, replacing what was there in one step.

    What the dataset at ``into`` holds already is taken from there: sources of the kind "stored" altogether, and of the
    others every file that ``known`` says did not change. Either way the same bytes are decoded and measured anew.

    Args:
        sources: In the order in which the manifest lists them.
        into: Folder for ``manifest.parquet``, ``shards/``, ``quarantine.json``, ``corrections.json`` (labels changed by
            what production said of the same image) and ``summary.json``.
        config: Limits.
        known: Table of the files that were read the last time; None reads them all.
        progress: Called with (files read, files listed).

    Raises:
        IntakeError: If a source is gone, has nothing to learn from, or more than the allowed share of its files is
            unreadable; ``into`` is then as it was.
        StorageError: If the disk has no room for it.
    """
    check_sources(sources)
    temporary = _make_room(into)
    try:
        listings, stock = [_pass_over(source, _list_again(source, into)) for source in sources], Stock(into, known)
        _check_space(into, sum(entry.size for listing in listings for entry in listing.entries))
        rows, quarantined = _read_all(sources, listings, temporary, config, stock, progress)
        _check_readable(sources, len(rows), quarantined, config.max_unreadable_share)
        corrections = correct_labels(rows)
        refused = [asdict(item) for item in quarantined]
        ignored = {source.name: dict(listing.ignored) for source, listing in zip(sources, listings, strict=True)}
        told = describe_sources(sources, listings, corrections)
        summary = summarise_dataset(rows, refused, ignored, told, settle_brightness(rows))
        write_manifest(temporary, rows)
        write_json(temporary / "quarantine.json", refused)
        write_json(temporary / "summary.json", asdict(summary))
        write_json(temporary / "corrections.json", [asdict(item) for item in corrections])
        replace_folder(temporary, into)
        stock.save()
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    logger.info("ingest done images=%d distinct=%d quarantined=%d", summary.images, summary.distinct, len(refused))
    return summary


def map_ahead(work: Callable[[Item], Result], items: Iterator[Item]) -> Iterator[Result]:
    """Yield ``work(item)`` in the order of ``items``, done by threads that run a bounded number of items ahead."""
    with ThreadPoolExecutor(THREADS) as pool:
        running = deque(pool.submit(work, item) for item in itertools.islice(items, AHEAD))
        try:
            while running:
                yield running.popleft().result()
                running.extend(pool.submit(work, item) for item in itertools.islice(items, 1))
        finally:
            for waiting in running:
                waiting.cancel()


def _check_space(into: Path, needed: int) -> None:
    """Refuse to begin what the disk cannot hold: the new data set beside the old one, and DVC's copy of what is new.

    Raises:
        StorageError: Naming the disk, what is needed and what is free.
    """
    held = sum(path.stat().st_size for path in (into / "shards").glob("*.parquet"))
    needed, free = needed + max(0, needed - held), shutil.disk_usage(into.parent).free
    if needed > free:
        raise StorageError(
            f"{into.parent} has no room for the data set: about {needed / 2**20:,.0f} MiB are needed, "
            f"{free / 2**20:,.0f} MiB are free. Make room (regraft clean says what can go), or move the workspace"
        )


def _list_again(source: Source, dataset: Path) -> Listing:
    if source.kind == STORED:
        return list_stored(dataset, source)
    if not source.path.exists() and (stored := find_stored(dataset, source)):
        logger.warning(
            "source %s is not at %s; its %d files are those of the data set", source.name, source.path, stored.files
        )
        return list_stored(dataset, stored)
    listing = list_source(source.path, source.layout)
    if fingerprint_listing(source.path, listing) != source.fingerprint:
        logger.warning("source %s changed since it was taken in; the next scan will notice it again", source.name)
    return listing


def _pass_over(source: Source, listing: Listing) -> Listing:
    """Return the listing without the images of classes that the source is to go without."""
    return replace(listing, entries=[entry for entry in listing.entries if entry.label not in source.without])


def _make_room(into: Path) -> Path:
    """Return a new folder beside ``into``, after removing what killed runs left there."""
    into.parent.mkdir(parents=True, exist_ok=True)
    temporary = into.with_name(f".{into.name}.{os.getpid()}.tmp")
    if not into.exists() and (retired := sorted(into.parent.glob(f".{into.name}.*.old"))):
        retired[0].rename(into)  # killed between the two renames; it may be all that is left of a source
    for left in [*into.parent.glob(f".{into.name}.*.tmp"), *into.parent.glob(f".{into.name}.*.old")]:
        if left == temporary or not _is_running(left.name.split(".")[-2]):
            shutil.rmtree(left, ignore_errors=True)
    (temporary / "shards").mkdir(parents=True)
    return temporary


def _is_running(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    return True


def _read_all(
    sources: list[Source],
    listings: list[Listing],
    dataset: Path,
    config: IngestConfig,
    stock: Stock,
    progress: Progress | None,
) -> tuple[list[Row], list[Quarantined]]:
    """Return manifest rows and quarantined files, both by source, then path; the shards are on the disk by then."""

    def read(entry: Entry) -> tuple[Row | Refusal, bytes]:
        return read_entry(entry, max_bytes=config.max_bytes, max_pixels=config.max_pixels, image=stock.find(entry))

    writer, rows, quarantined = ShardWriter(dataset), [], []
    total, done = sum(len(listing.entries) for listing in listings), itertools.count(1)
    for source, listing in zip(sources, listings, strict=True):
        refused = list(listing.refused)
        for entry, (row, image) in zip(listing.entries, map_ahead(read, iter(listing.entries)), strict=True):
            if isinstance(row, Refusal):
                refused.append(row)
            else:
                writer.add(row["sha256"], image)
                stock.note(entry, row["sha256"])
                rows.append({**row, "source": source.name})
            if progress:
                progress(next(done), total)
        writer.close_shard()
        refused.sort(key=lambda item: (item.path, item.label or "", item.reason))
        quarantined += [Quarantined(source.name, **asdict(item)) for item in refused]
    for row in rows:
        row["shard"], row["shard_row"] = writer.places[row["sha256"]]
    return rows, quarantined


def _check_readable(sources: list[Source], images: int, quarantined: list[Quarantined], allowed: float) -> None:
    """Refuse a dataset of which too much is unreadable.

    Raises:
        IntakeError: With the count, the share, the first offenders and what to do.
    """
    listed = images + len(quarantined)
    share = len(quarantined) / listed
    if images and share <= allowed:
        return
    where = ", ".join(str(source.path) for source in sources)
    allow = min(1.0, -(-share * 100 // 1) / 100)
    raise IntakeError(
        f"{len(quarantined)} of {listed} images ({share:.1%}) in {where} are unreadable, allowed are {allowed:.1%}",
        [f"{item.path}: {item.reason}: {item.detail}" for item in quarantined],
        "Repair or remove these files. If you can do without them, allow more: "
        + " ".join(f"--set {stage}.max_unreadable_share={allow:g}" for stage in ("ingest", "validate")),
    )
