"""How copies of one workspace share versions, pointer, journal and run history through the DVC remote.

Versions are immutable and lines of history a set: both are only added to. The journal is a chain; where two copies both
went on, the remote's stands and what was decided here challenges it (``docs/decisions/0021``).
"""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from regraft.serving.files.durable import write_bytes
from regraft.serving.registry.journal import JournalEntry, Pointer, encode_entry, replay
from regraft.serving.registry.registry import Registry
from regraft.tasks.sharing.remote_journal import (
    Relation,
    carry_over,
    compare,
    count_common,
    describe_parting,
    put_entries,
    read_history,
)
from regraft.tasks.sharing.remote_lines import get_lines, put_lines
from regraft.tasks.sharing.remote_store import RemoteError, RemoteStore, open_remote
from regraft.tasks.sharing.remote_versions import get_lineage, get_version, list_versions, put_versions
from regraft.tasks.workspace.workspace import Workspace

logger = logging.getLogger(__name__)


class RemoteMovedOnError(RuntimeError):
    """Another copy of the workspace changed the pointer since this one last looked."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Exchange:
    """What went over: versions and lines by count, and where the pointer stands now.

    ``relation`` is how this copy's journal stood to the remote's when that was read, ``notes`` what people must know.
    """

    versions: int
    lines: int
    relation: Relation
    pointer: Pointer
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able view."""
        return asdict(self)


def share(home: Workspace) -> Exchange:
    """Send versions, history and the journal to the remote; nothing there is ever overwritten.

    Raises:
        RemoteMovedOnError: If another copy changed the pointer since; versions and history are there all the same.
        RemoteError: If the remote cannot be used.
    """
    registry = Registry(home.models_store)
    with open_remote(home) as remote:
        versions = put_versions(home, remote)
        lines = sum(put_lines(remote, path) for path in _list_line_files(home))
        mine, theirs = registry.journal(), read_history(remote)
        relation = compare(mine, theirs)
        if relation == "ahead":
            put_entries(remote, mine, len(theirs))
            theirs = read_history(remote)  # another copy may have written the same numbers meanwhile
        if compare(mine, theirs) == "parted":
            told = describe_parting(mine, theirs, remote.url)
            raise RemoteMovedOnError(f"{told}. Nothing was overwritten; settle it with: regraft pull")
    return Exchange(versions, lines, relation, registry.pointer())


def follow(home: Workspace) -> Exchange:
    """Get what other copies sent: history, and the journal with its versions unless both sides went on.

    Raises:
        RemoteError: If the remote cannot be used, or a version in the pointer is not there whole.
    """
    return _get(home, every=False, settle=False)


def settle(home: Workspace, *, every: bool = False) -> Exchange:
    """Do as ``follow``; where both sides went on, the remote's journal stands and what was decided here challenges it.

    Args:
        home: The workspace.
        every: Get all versions, not only those in the pointer.

    Raises:
        RemoteError: If the remote cannot be used, or a version in the pointer is not there whole.
    """
    return _get(home, every=every, settle=True)


def _get(home: Workspace, *, every: bool, settle: bool) -> Exchange:
    registry = Registry(home.models_store)
    with open_remote(home) as remote:
        lines = sum(get_lines(remote, path) for path in _list_line_files(home))
        seen, mine, theirs = registry.pointer().seq, registry.journal(), read_history(remote)
        relation, adopted, notes = compare(mine, theirs), list[JournalEntry](), list[str]()
        if relation == "behind":
            adopted = theirs
        elif relation == "parted":
            notes.append(describe_parting(mine, theirs, remote.url))
            if settle:
                adopted, told = carry_over(mine, theirs)
                notes += told
        versions = _get_versions(home, remote, adopted or mine, every=every)
    if adopted:
        _keep_superseded(home, mine[count_common(mine, theirs) :])
        registry.adopt(adopted, seen)
        logger.info("the pointer follows the remote champion=%s seq=%d", registry.pointer().champion, len(adopted))
    return Exchange(versions, lines, relation, registry.pointer(), tuple(notes))


def _get_versions(home: Workspace, remote: RemoteStore, entries: list[JournalEntry], *, every: bool) -> int:
    """Get the lineage of all versions and the folders of those in the pointer; return how many folders came."""
    there, came = list_versions(remote), 0
    pointer = replay(entries)[-1] if entries else Pointer()
    for version in there:
        get_lineage(home, remote, version)
        if every or version in (pointer.champion, pointer.challenger, pointer.previous):
            came += get_version(home, remote, version)
    champion = pointer.champion
    if champion and not Registry(home.models_store).path(champion).is_dir():
        raise RemoteError(f"{remote.url} does not hold the champion {champion}; push it from where it was made")
    return came


def _keep_superseded(home: Workspace, entries: list[JournalEntry]) -> None:
    """Keep what the remote's history took the place of where people find it; nothing reads it again."""
    if entries:
        path = home.models_store / "journal.superseded.jsonl"
        known = path.read_bytes() if path.exists() else b""
        write_bytes(path, known + b"".join(map(encode_entry, entries)))


def _list_line_files(home: Workspace) -> list[Path]:
    return [home.track_record, home.runs, home.judgements]
