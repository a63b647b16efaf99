"""The append-only record of who changed the pointer, when and why: a JSON line each, synced before it counts."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from serving.durable import sync_folder


class RegistryError(Exception):
    """A change that the registry does not allow, or a registry that contradicts itself."""


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
    """Add one line and sync it; the torn last line of a writer that died is cut off first."""
    is_new = not path.exists()
    with path.open("ab") as file:
        file.truncate(_complete_length(path))
        file.write((json.dumps(asdict(entry), sort_keys=True, ensure_ascii=False) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync_folder(path.parent)


def read_entries(path: Path) -> list[JournalEntry]:
    """Return every complete line in file order, void ones included.

    Raises:
        RegistryError: If a complete line is not an entry.
    """
    if not path.exists():
        return []
    complete = path.read_bytes()[: _complete_length(path)]
    try:
        return [JournalEntry(**json.loads(line)) for line in complete.split(b"\n")[:-1]]
    except (ValueError, TypeError) as exc:
        raise RegistryError(f"{path} has a line that is not an entry ({exc}); restore it from a copy") from exc


def keep_effective(entries: list[JournalEntry], seq: int) -> list[JournalEntry]:
    """Return the entries that took effect when the pointer stands at ``seq``.

    Above ``seq`` the writer died before the rename. Of two with one number the later took effect, for the same reason.
    """
    latest = {entry.seq: entry for entry in entries if entry.seq <= seq}
    return [latest[number] for number in sorted(latest)]


def _complete_length(path: Path) -> int:
    """Return how many bytes of a file of lines end in a newline."""
    return path.read_bytes().rfind(b"\n") + 1 if path.exists() else 0
