"""Registered versions and the pointer that says which of them answers, with a journal of who changed it and why.

A change appends one journal line, then renames one pointer file; both are synced. A line whose ``seq`` is above the
pointer's never took effect (the writer died in between) and is not shown.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock

from regraft.serving.bundle.format import BundleError, BundleInfo, open_bundle
from regraft.serving.files.durable import replace_folder, write_bytes, write_json
from regraft.serving.registry.journal import (
    JournalEntry,
    Pointer,
    RegistryError,
    append_entry,
    encode_entry,
    keep_effective,
    read_entries,
    replay,
)

POINTER_FILE = "pointer.json"
JOURNAL_FILE = "journal.jsonl"
LOCK_FILE = ".registry.lock"
VERSIONS_FOLDER = "versions"


@dataclass(frozen=True, slots=True)
class VersionEntry:
    """One registered version; ``registered_at`` is in Unix seconds, ``role`` its place in the pointer or ''."""

    version: str
    path: Path
    info: BundleInfo
    registered_at: float
    role: str


class Registry:
    """The registry in a ``models/store`` folder; any number of processes may read and write it."""

    def __init__(self, models_store: Path) -> None:
        self.store = Path(models_store)
        self.folder = self.store / VERSIONS_FOLDER

    def register(self, bundle_folder: Path) -> str:
        """Copy a bundle in, verified, and return its version; a version already there is left, a damaged one replaced.

        Raises:
            BundleError: If ``bundle_folder`` does not hold its own hashes.
        """
        version = open_bundle(Path(bundle_folder)).info.version
        with self._writing():
            final = self.folder / version
            if not _is_intact(final):
                temporary = self.folder / f".{version}.{os.getpid()}.tmp"
                shutil.copytree(bundle_folder, temporary)
                open_bundle(temporary)  # the source may have changed while it was copied
                os.utime(temporary)  # copytree keeps the source's; ours is the time of registration
                replace_folder(temporary, final)
        return version

    def path(self, version: str) -> Path:
        """Return the folder of a registered version."""
        return self.folder / version

    def versions(self) -> list[VersionEntry]:
        """Return every registered version, oldest first; folders without a readable description are left out."""
        pointer = self.pointer()
        roles = {pointer.previous: "previous", pointer.challenger: "challenger", pointer.champion: "champion"}
        entries = []
        for folder in self._folders():
            with contextlib.suppress(BundleError):
                info = open_bundle(folder, verify=False).info
                entries.append(
                    VersionEntry(folder.name, folder, info, folder.stat().st_mtime, roles.get(folder.name, ""))
                )
        return sorted(entries, key=lambda entry: (entry.registered_at, entry.version))

    def resolve(self, prefix: str) -> str:
        """Return the one version that starts with ``prefix``; "champion", "challenger" and "previous" work too.

        Raises:
            RegistryError: If none or several fit.
        """
        if prefix in ("champion", "challenger", "previous"):
            version = getattr(self.pointer(), prefix)
            if version is None:
                raise RegistryError(
                    f"there is no {prefix} in {self.store.name} yet; register and promote a version first"
                )
            return version
        known = [folder.name for folder in self._folders()]
        fitting = [version for version in known if prefix and version.startswith(prefix)]
        if len(fitting) != 1:
            what = f"fits {len(fitting)} versions" if fitting else "fits no version"
            raise RegistryError(f"{prefix!r} {what}; registered are: {', '.join(fitting or known) or 'none'}")
        return fitting[0]

    def pointer(self) -> Pointer:
        """Return the pointer; an empty one before the first change.

        Raises:
            RegistryError: If the file is there and is not a pointer.
        """
        path = self.store / POINTER_FILE
        try:
            return Pointer(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            return Pointer()
        except (ValueError, TypeError) as exc:
            raise RegistryError(f"{path} is not a pointer ({exc}); write it again from {JOURNAL_FILE}") from exc

    def journal(self) -> list[JournalEntry]:
        """Return the changes that took effect, oldest first."""
        return keep_effective(read_entries(self.store / JOURNAL_FILE), self.pointer().seq)

    def last_swap(self) -> JournalEntry | None:
        """Return the change that made the present champion answer, None if nothing ever did."""
        return next((entry for entry in reversed(self.journal()) if entry.action in ("promote", "rollback")), None)

    def challenge(self, version: str, by: str, reason: str) -> Pointer:
        """Make ``version`` the challenger; nothing is written if it already is.

        Raises:
            RegistryError: If it is not registered, or is the champion.
        """

        def change(pointer: Pointer) -> Pointer:
            if pointer.champion == version:
                raise RegistryError(f"{version} is the champion already; only another version can challenge it")
            return replace(pointer, challenger=version)

        return self._change("challenge", version, by, reason, change)

    def promote(self, version: str, by: str, reason: str) -> Pointer:
        """Make ``version`` the champion and the champion the previous; nothing is written if it already answers.

        Raises:
            RegistryError: If it is not registered or damaged.
        """

        def change(pointer: Pointer) -> Pointer:
            if pointer.champion == version:
                return pointer
            challenger = None if pointer.challenger == version else pointer.challenger
            return replace(pointer, champion=version, challenger=challenger, previous=pointer.champion)

        return self._change("promote", version, by, reason, change)

    def rollback(self, by: str, reason: str) -> Pointer:
        """Exchange champion and previous.

        Raises:
            RegistryError: If there is no previous version, or it is damaged.
        """

        def change(pointer: Pointer) -> Pointer:
            return replace(pointer, champion=pointer.previous, previous=pointer.champion)

        return self._change("rollback", None, by, reason, change)

    def reject(self, version: str, by: str, reason: str) -> Pointer:
        """Take ``version`` out of the challenger's place.

        Raises:
            RegistryError: If it is not the challenger.
        """

        def change(pointer: Pointer) -> Pointer:
            if pointer.challenger != version:
                raise RegistryError(f"{version} is not the challenger ({pointer.challenger or 'there is none'})")
            return replace(pointer, challenger=None)

        return self._change("reject", version, by, reason, change)

    def discard(self, versions: list[str]) -> None:
        """Remove the folders of versions that have no place in the pointer; what the journal says of them stays.

        Raises:
            RegistryError: If one is champion, challenger or previous; then none is removed.
        """
        with self._writing():
            pointer = self.pointer()
            if placed := {pointer.champion, pointer.challenger, pointer.previous} & set(versions):
                raise RegistryError(f"{', '.join(sorted(map(str, placed)))} has a place in the pointer and stays")
            for version in versions:
                retired = self.folder / f".{Path(version).name}.{os.getpid()}.old"
                (self.folder / Path(version).name).rename(retired)
                shutil.rmtree(retired)

    def adopt(self, entries: list[JournalEntry], seen: int) -> Pointer:
        """Take over the history ``entries``, which another copy of the workspace wrote, and the pointer it leads to.

        Args:
            entries: From the first one on.
            seen: Where the pointer stood when that was decided.

        Raises:
            RegistryError: If the pointer moved meanwhile, or the version that would answer is not there whole.
        """
        with self._writing():
            if self.pointer().seq != seen:
                raise RegistryError(f"the pointer moved from {seen} to {self.pointer().seq} meanwhile; try again")
            after = replay(entries)[-1]
            if after.champion is not None:
                self._require(after.champion, verify=True)
            # Killed between the two writes, what is above the old pointer is void, and the next call does it again.
            write_bytes(self.store / JOURNAL_FILE, b"".join(map(encode_entry, entries)))
            write_json(self.store / POINTER_FILE, asdict(after))
            return after

    def _change(
        self, action: str, version: str | None, by: str, reason: str, change: Callable[[Pointer], Pointer]
    ) -> Pointer:
        with self._writing():
            before = self.pointer()
            self._check_journal(before)
            subject = before.previous if version is None else version
            if subject is None:
                raise RegistryError("there is no previous version to roll back to; promote a second version first")
            if action != "reject":
                self._require(subject, verify=action != "challenge")
            after = change(before)
            if after == before:
                return before
            after = replace(after, seq=before.seq + 1)
            entry = JournalEntry(after.seq, time.time(), action, subject, by, reason)
            append_entry(self.store / JOURNAL_FILE, entry)
            write_json(self.store / POINTER_FILE, asdict(after))
            return after

    def _check_journal(self, pointer: Pointer) -> None:
        """Refuse to start over at 1 when the pointer was lost: that would void the whole history."""
        entries = read_entries(self.store / JOURNAL_FILE)
        if any(entry.seq > pointer.seq + 1 for entry in entries):
            raise RegistryError(
                f"{POINTER_FILE} stands at {pointer.seq}, {JOURNAL_FILE} at {entries[-1].seq}; restore the lost pointer"
            )

    def _require(self, version: str, *, verify: bool) -> None:
        if not (self.folder / version).is_dir() or version != Path(version).name:
            known = ", ".join(folder.name for folder in self._folders()) or "none"
            raise RegistryError(f"{version!r} is not registered; registered are: {known}")
        try:
            open_bundle(self.folder / version, verify=verify)
        except BundleError as exc:
            raise RegistryError(f"{version} cannot take this place: {exc}") from exc

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the one writer's lock; the kernel drops it when the holder dies."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.store / LOCK_FILE):
            self._remove_leftovers()
            yield

    def _folders(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith("."))

    def _remove_leftovers(self) -> None:
        """Remove what writers left that died; we hold the lock, so nobody is writing it.

        Other hidden files are a desktop's, and come back whenever they are removed.
        """
        for path in self.folder.glob(".*"):
            if path.name.endswith((".tmp", ".old")) and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
        for path in self.store.glob(f".{POINTER_FILE}.*.tmp"):
            path.unlink()


def _is_intact(folder: Path) -> bool:
    try:
        open_bundle(folder)
    except BundleError:
        return False
    return True
