"""What enters the graph: the list of sources, and the rows whose part of the split is already decided."""

import hashlib
import io
import logging
from pathlib import Path

import pandas as pd
import yaml

from data.entries import IntakeError
from data.intake import Source, list_source, read_intake, scan_source, write_intake
from data.splits import read_split
from data.stored import STORED, find_lost, find_stored
from serving.durable import write_bytes
from tasks.workspace import Workspace

logger = logging.getLogger(__name__)

ORIGIN = "origin"
"""Name of the source that the user gave; batches of feedback are named by their hash."""


def take_in(home: Workspace, path: Path) -> None:
    """Make ``path`` the workspace's origin; batches of labelled production images stay if they know no other labels."""
    origin = scan_source(path.expanduser().resolve(), ORIGIN)
    _update(home, [origin, *(batch for batch in _batches(home) if set(batch.labels) <= set(origin.labels))])


def rescan(home: Workspace) -> None:
    """Look at the known sources again, so that images added to the user's folder are noticed.

    A source that is not there any more goes on with what the data set holds of it, and that is said.
    """
    if home.intake.exists():
        _update(home, [_look_again(home, source) for source in _known(home)])


def add_batch(home: Workspace, batch: Path, *, keep: set[str]) -> None:
    """Add a folder of labelled production images to the sources; adding it again changes nothing.

    What the data set holds of the other sources stays, whatever became of their files: nobody watches a retraining.
    Files that are new in them are read.

    Args:
        home: The workspace.
        batch: The folder that ``collect_feedback`` wrote.
        keep: Earlier batches that stay; one that no version was made with is superseded by this one.
    """
    others = [source for source in _known(home) if source.name == ORIGIN or source.name in keep - {batch.name}]
    kept = [_keep(home, source) for source in others]
    _update(home, [*kept, scan_source(_place(home, batch.name, batch), batch.name)])


def _known(home: Workspace) -> list[Source]:
    return read_intake(home.intake) if home.intake.exists() else []


def _batches(home: Workspace) -> list[Source]:
    return [_look_again(home, source) for source in _known(home) if source.name != ORIGIN]


def _look_again(home: Workspace, source: Source) -> Source:
    """Return the source as it is now, or as the data set holds it where nothing is at its place any more.

    Raises:
        IntakeError: If it is gone and the data set does not hold it either, or it cannot be taken in as it is now.
    """
    place = _place(home, source.name, source.path)
    if place.exists() or not (stored := find_stored(home.dataset, source)):
        return scan_source(place, source.name)
    if source.name == ORIGIN:
        logger.warning("%s is not there; going on with the %d files of it in the data set", place, stored.files)
    return stored


def _keep(home: Workspace, source: Source) -> Source:
    """Return the source as it is now, if it still gives all that the data set holds of it; else as that holds it."""
    stored = find_stored(home.dataset, source)
    if stored is None or not (source.kind == STORED or _is_read(home)):
        return _look_again(home, source)
    place = _place(home, source.name, source.path)
    try:
        lost = find_lost(home.dataset, source, list_source(place))
        if not lost:
            return scan_source(place, source.name)
        why = f"{len(lost)} of {stored.files} files are not in {place} any more, the first is {lost[0]}"
    except (IntakeError, OSError) as error:
        why = str(error).splitlines()[0]
    if source.name == ORIGIN:
        logger.warning("%s; going on with the data set. regraft train follows the folder again", why)
    return stored


def _is_read(home: Workspace) -> bool:
    """Say whether the data set was made from the sources as they are known now: an origin may never have been read."""
    lock = home.root / "dvc.lock"
    stages = yaml.safe_load(lock.read_text()).get("stages", {}) if lock.exists() else {}
    digest = hashlib.md5(home.intake.read_bytes(), usedforsecurity=False).hexdigest()
    return any(dep.get("md5") == digest for dep in stages.get("ingest", {}).get("deps", []))


def _place(home: Workspace, name: str, path: Path) -> Path:
    # A batch by its name, not by a stored path: the workspace may have been moved since.
    return Path(path) if name == ORIGIN else home.feedback / name / "manifest.csv"


def _update(home: Workspace, sources: list[Source]) -> None:
    if sources != _known(home):
        # Decided first: killed between the two writes, the next call writes the same again.
        write_bytes(home.frozen, _decided(home))
        write_intake(home.intake, sources)


def _decided(home: Workspace) -> bytes:
    decided = [pd.read_csv(home.frozen, dtype=str)]
    if home.split.exists():
        decided.append(read_split(home.split)[["sha256", "part"]])
    rows = pd.concat(decided).drop_duplicates("sha256", keep="last").sort_values("sha256")
    buffer = io.StringIO()
    rows.to_csv(buffer, index=False, lineterminator="\n")
    return buffer.getvalue().encode()
