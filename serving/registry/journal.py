"""The append-only record of who changed the pointer, when and why: a JSON line each, synced before it counts.

The pointer follows from the record (``replay``), and so does a name for every history (``chain``), by which two copies
of one workspace find out where they parted.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from regraft.serving.files.json_lines import append_lines, encode_line, read_lines


class RegistryError(Exception):
    """A change that the registry does not allow, or a registry that contradicts itself."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Pointer:
    """Which version answers (champion), wants to (challenger) and is one command away (previous)."""

    champion: str | None = None
    challenger: str | None = None
    previous: str | None = None
    seq: int = 0


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One change; ``at`` is in Unix seconds, ``seq`` the number the pointer gets by it."""

    seq: int
    at: float
    action: str
    version: str
    by: str
    reason: str


def append_entry(path: Path, entry: JournalEntry) -> None:
    """Add one line and sync it."""
    append_lines(path, [encode_line(asdict(entry))])


def read_entries(path: Path) -> list[JournalEntry]:
    """Return every whole line in file order, void ones included.

    Raises:
        RegistryError: If a whole line is not an entry.
    """
    try:
        return [JournalEntry(**json.loads(line)) for line in read_lines(path)]
    except (ValueError, TypeError) as exc:
        raise RegistryError(f"{path} has a line that is not an entry ({exc}); restore it from a copy") from exc


def keep_effective(entries: list[JournalEntry], seq: int) -> list[JournalEntry]:
    """Return the entries that took effect when the pointer stands at ``seq``.

    Above ``seq`` the writer died before the rename. Of two with one number the later took effect, for the same reason.
    """
    latest = {entry.seq: entry for entry in entries if entry.seq <= seq}
    return [latest[number] for number in sorted(latest)]


def encode_entry(entry: JournalEntry) -> bytes:
    """Return the entry as one line of the journal, its newline included."""
    return encode_line(asdict(entry)) + b"\n"


def replay(entries: list[JournalEntry]) -> list[Pointer]:
    """Return the pointer after each of ``entries``, which begin with the first one of all.

    Raises:
        RegistryError: If one has an action that is none, or a number that is not the next.
    """
    pointers, pointer = [], Pointer()
    for entry in entries:
        if entry.seq != pointer.seq + 1:
            raise RegistryError(f"the journal goes from {pointer.seq} to {entry.seq}; restore it from a copy")
        pointer = replace(_apply(pointer, entry), seq=entry.seq)
        pointers.append(pointer)
    return pointers


def _apply(pointer: Pointer, entry: JournalEntry) -> Pointer:
    if entry.action == "promote":
        challenger = None if pointer.challenger == entry.version else pointer.challenger
        return Pointer(entry.version, challenger, pointer.champion)
    if entry.action == "rollback":
        return replace(pointer, champion=pointer.previous, previous=pointer.champion)
    if entry.action == "challenge":
        return replace(pointer, challenger=entry.version)
    if entry.action == "reject":
        return replace(pointer, challenger=None)
    raise RegistryError(f"entry {entry.seq} of the journal does {entry.action!r}, which this version does not know")


def chain(entries: list[JournalEntry]) -> list[str]:
    """Return for each entry 16 hex digits over it and all before it: equal only for equal histories."""
    names, name = [], ""
    for entry in entries:
        name = chain_on(name, entry)
        names.append(name)
    return names


def chain_on(parent: str, entry: JournalEntry) -> str:
    """Return the name of the history that ``entry`` makes of the one called ``parent``, "" if it is the first."""
    return hashlib.sha256(parent.encode() + encode_entry(entry)).hexdigest()[:16]
