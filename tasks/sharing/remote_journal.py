"""The journal in the remote: one document for each entry, whose name says which history it goes on from.

Nothing is overwritten: two copies that wrote the same number at once leave two documents, and every reader agrees on
which of them was first. What a copy decided that is not part of that history is carried over as a challenge to it.
"""

import json
import time
from typing import Literal

from regraft.serving.registry.journal import JournalEntry, chain, chain_on, encode_entry, replay
from regraft.tasks.sharing.remote_store import RemoteStore

FOLDER = "journal"
Relation = Literal["same", "ahead", "behind", "parted"]


def read_history(remote: RemoteStore) -> list[JournalEntry]:
    """Return the remote's journal: from the first entry on, at each step the earliest that follows the one before."""
    by_seq: dict[int, list[str]] = {}
    for name in remote.list(FOLDER):
        seq = name.partition("-")[0]
        if seq.isdigit() and name.endswith(".json"):
            by_seq.setdefault(int(seq), []).append(name)
    entries, parent = list[JournalEntry](), ""
    while names := by_seq.get(len(entries) + 1):
        following = [found for name in names if (found := _read_entry(remote, name, parent))]
        if not following:
            break
        entry, parent = min(following, key=lambda found: (found[0].at, found[1]))
        entries.append(entry)
    return entries


def put_entries(remote: RemoteStore, mine: list[JournalEntry], known: int) -> None:
    """Send the entries of ``mine`` after the first ``known``."""
    for entry, history in list(zip(mine, chain(mine), strict=True))[known:]:
        remote.write(FOLDER, _name_entry(entry, history), encode_entry(entry))


def count_common(mine: list[JournalEntry], theirs: list[JournalEntry]) -> int:
    """Return how many entries two histories begin with in common."""
    return sum(one == other for one, other in zip(chain(mine), chain(theirs), strict=False))


def compare(mine: list[JournalEntry], theirs: list[JournalEntry]) -> Relation:
    """Return how ``mine`` stands to ``theirs``; "parted" if both went on from where they were the same."""
    common = count_common(mine, theirs)
    if common == len(mine):
        return "same" if common == len(theirs) else "behind"
    return "ahead" if common == len(theirs) else "parted"


def describe_parting(mine: list[JournalEntry], theirs: list[JournalEntry], url: str) -> str:
    """Return what was decided on both sides since they parted."""
    common = count_common(mine, theirs)
    there, here = (
        f"{len(entries) - common} change(s) of the pointer {where}, the last is {entries[-1].action} "
        f"{entries[-1].version} by {entries[-1].by}"
        for entries, where in ((theirs, "there"), (mine, "here"))
    )
    return f"{url} moved on: {there}; {here}"


def carry_over(mine: list[JournalEntry], theirs: list[JournalEntry]) -> tuple[list[JournalEntry], list[str]]:
    """Return ``theirs``, extended by what remains to be said of the decisions made here, and a note on each of these.

    A version promoted here challenges the champion there: it was judged against another one. A rollback is made again
    if the version that it took the answer from still answers. Everything else is settled by the longer history.
    """
    common, entries, notes = count_common(mine, theirs), list(theirs), list[str]()
    known = {entry.version for entry in theirs if entry.action in ("promote", "challenge")}
    for entry, before in list(zip(mine, [None, *replay(mine)], strict=False))[common:]:
        pointer = replay(entries)[-1]
        left = before.champion if before else None
        notes.append(f"superseded: {entry.action} {entry.version} by {entry.by} ({entry.reason})")
        if entry.action == "rollback" and left == pointer.champion and pointer.previous is not None:
            entries.append(
                JournalEntry(pointer.seq + 1, time.time(), "rollback", pointer.previous, entry.by, entry.reason)
            )
            notes.append(f"{left} still answered there and is rolled back again, to {pointer.previous}")
        elif entry.action == "promote" and entry.version not in known:
            reason = f"promoted by {entry.by} in a copy that did not know {pointer.champion}; to be judged against it"
            entries.append(JournalEntry(pointer.seq + 1, time.time(), "challenge", entry.version, "pull", reason))
            notes.append(f"{entry.version} is the challenger of {pointer.champion} now; the next run judges it")
    return entries, notes


def _read_entry(remote: RemoteStore, name: str, parent: str) -> tuple[JournalEntry, str] | None:
    """Return an entry and the history it makes, or None if it goes on from another one or is not written to its end."""
    try:
        entry = JournalEntry(**json.loads(remote.read(FOLDER, name) or b""))
    except (ValueError, TypeError):
        return None
    history = chain_on(parent, entry)
    return (entry, history) if name == _name_entry(entry, history) else None


def _name_entry(entry: JournalEntry, history: str) -> str:
    return f"{entry.seq:08d}-{history}.json"
