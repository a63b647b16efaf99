"""What enters the graph: the list of sources, and the rows whose part of the split is already decided."""

import io
from pathlib import Path

import pandas as pd

from data.intake import Source, read_intake, scan_source, write_intake
from data.splits import read_split
from serving.durable import write_bytes
from tasks.workspace import Workspace

ORIGIN = "origin"
"""Name of the source that the user gave; batches of feedback are named by their hash."""


def take_in(home: Workspace, path: Path) -> None:
    """Make ``path`` the workspace's origin; batches of labelled production images stay if they know no other labels."""
    origin = scan_source(path.expanduser().resolve(), ORIGIN)
    _update(home, [origin, *(batch for batch in _batches(home) if set(batch.labels) <= set(origin.labels))])


def rescan(home: Workspace) -> None:
    """Look at the known sources again, so that images added to the user's folder are noticed."""
    if home.intake.exists():
        origins = [scan_source(Path(source.path), ORIGIN) for source in _known(home) if source.name == ORIGIN]
        _update(home, [*origins, *_batches(home)])


def add_batch(home: Workspace, batch: Path, *, keep: set[str]) -> None:
    """Add a folder of labelled production images to the sources; adding it again changes nothing.

    Args:
        home: The workspace.
        batch: The folder that ``collect_feedback`` wrote.
        keep: Earlier batches that stay; one that no version was made with is superseded by this one.
    """
    others = [source for source in _known(home) if source.name == ORIGIN or source.name in keep - {batch.name}]
    _update(home, [*others, _scan_batch(home, batch.name)])


def _known(home: Workspace) -> list[Source]:
    return read_intake(home.intake) if home.intake.exists() else []


def _batches(home: Workspace) -> list[Source]:
    return [_scan_batch(home, source.name) for source in _known(home) if source.name != ORIGIN]


def _scan_batch(home: Workspace, name: str) -> Source:
    # By its name, not by a stored path: the workspace may have been moved since.
    return scan_source(home.feedback / name / "manifest.csv", name)


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
