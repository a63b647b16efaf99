"""What a workspace may forget: told first, removed only when asked to, and never what a kept version needs.

Lineage and journal stay for ever: they are small, and they say what was learned already.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regraft.serving.log.pruning import count_old, prune_log
from regraft.serving.registry.registry import Registry, VersionEntry
from regraft.tasks.retention.needed_objects import list_needed
from regraft.tasks.settings.retention_config import RetentionConfig
from regraft.tasks.sharing.remote_store import RemoteStore, open_remote
from regraft.tasks.sharing.remote_versions import forget_files, list_versions, read_version
from regraft.tasks.steps.collect import read_fresh_labels
from regraft.tasks.workspace.dvc_repo import open_repository
from regraft.tasks.workspace.workspace import Workspace

logger = logging.getLogger(__name__)

DAY_S = 86_400.0
SETTLED_S = DAY_S
"""Objects younger than this stay: a run may just have made them, here or in another copy."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Something that may go: what it is, how much of it, and why it is not needed."""

    what: str
    count: int
    bytes: int
    why: str
    remove: Callable[[], object] = field(repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able view."""
        return {name: getattr(self, name) for name in ("what", "count", "bytes", "why")}


def plan_cleaning(home: Workspace, config: RetentionConfig, *, remote: bool = False) -> list[Piece]:
    """Return what may go; nothing is removed yet.

    Args:
        home: The workspace; the caller holds its lock.
        config: What stays.
        remote: Also look for objects in the remote that no kept version needs. Other copies of the workspace lose
            the data of runs that made no kept version.

    Raises:
        UnknownNeedsError: If it cannot be told what a kept version needs.
    """
    now, kept, old = time.time(), *_sort_versions(home, config.versions)
    pieces = [
        _plan_files("cache", home.cache, now - config.cache_days * DAY_S, f"older than {config.cache_days:g} days"),
        _plan_files("logs", home.logs, now - config.cache_days * DAY_S, f"older than {config.cache_days:g} days"),
        _plan_files("leftovers", home.state / "incoming", now - SETTLED_S, "of a pull that was interrupted"),
        _plan_versions(home, old, config.versions),
        _plan_predictions(home, now - config.predictions_days * DAY_S, config.predictions_days),
        *_plan_objects(home, {entry.version for entry in kept}, config.versions, remote),
    ]
    return [piece for piece in pieces if piece.count]


def measure_sizes(home: Workspace) -> dict[str, int]:
    """Return the bytes of what lies in a workspace, by name."""
    places = {
        "dataset": home.dataset,
        "versions": home.models_store / "versions",
        "backbones": home.backbones,
        "DVC cache": home.root / ".dvc" / "cache",
        "remote in the workspace": home.remote,
        "cache": home.cache,
        "kept images": home.images,
        "prediction log": home.predictions,
        "logs": home.logs,
    }
    return {name: sum(size for _, size, _ in _walk(place)) for name, place in places.items()}


def _sort_versions(home: Workspace, count: int) -> tuple[list[VersionEntry], list[VersionEntry]]:
    """Return the versions that stay and those that may go."""
    versions = Registry(home.models_store).versions()
    newest = {entry.version for entry in versions[::-1][:count]}
    kept = [entry for entry in versions if entry.role or entry.version in newest]
    return kept, [entry for entry in versions if entry not in kept]


def _plan_files(what: str, folder: Path, before: float, why: str) -> Piece:
    files = [(path, size) for path, size, at in _walk(folder) if at < before]

    def remove() -> None:
        for path, _ in files:
            path.unlink(missing_ok=True)

    return Piece(what, len(files), sum(size for _, size in files), why, remove)


def _plan_versions(home: Workspace, old: list[VersionEntry], count: int) -> Piece:
    def remove() -> None:
        Registry(home.models_store).discard([entry.version for entry in old])

    size = sum(size for entry in old for _, size, _ in _walk(entry.path))
    return Piece("versions", len(old), size, f"not in the pointer, nor among the {count} newest", remove)


def _plan_predictions(home: Workspace, before: float, days: float) -> Piece:
    unlearned = {row.image_sha256 for row in read_fresh_labels(home)} if home.predictions.exists() else set()
    count, size = count_old(home.predictions, before, unlearned)
    why = f"older than {days:g} days, without a label to learn from"
    return Piece("predictions", count, size, why, lambda: prune_log(home.predictions, before, unlearned))


def _plan_objects(home: Workspace, kept: set[str], count: int, with_remote: bool) -> list[Piece]:
    """Return the objects of DVC's cache, and of the remote if asked, that nothing kept is made of."""
    cache = home.root / ".dvc" / "cache" / "files" / "md5"
    with open_repository(home.root) as repo:
        own = Path(repo.cache.local.path).resolve() == cache.resolve()  # one that others share is not ours to clean
    with open_remote(home) as remote:

        def read(md5: str) -> bytes | None:
            place = cache / md5[:2] / md5[2:]
            return place.read_bytes() if place.exists() else remote.read_object(md5)

        needed = _list_needed(home, [home.lineage / version / "dvc.lock" for version in kept], read)
        pieces = [_plan_cache(cache, needed)] if own else []
        if with_remote:
            pieces.append(_plan_remote(home, remote, needed, kept, count, read))
    return pieces


def _list_needed(home: Workspace, locks: Iterable[Path], read: Callable[[str], bytes | None]) -> set[str]:
    needed: set[str] = set()
    for lock in [home.lock, *locks]:
        if lock.exists():
            needed |= list_needed(lock.read_text(), read)
    return needed


def _plan_cache(cache: Path, needed: set[str]) -> Piece:
    before = time.time() - SETTLED_S
    unneeded = [
        (path, size) for path, size, at in _walk(cache) if at < before and path.parent.name + path.name not in needed
    ]

    def remove() -> None:
        for path, _ in unneeded:
            path.unlink(missing_ok=True)

    why = "in DVC's cache, of no kept version and not of the present data"
    return Piece("cache objects", len(unneeded), sum(size for _, size in unneeded), why, remove)


def _plan_remote(
    home: Workspace,
    remote: RemoteStore,
    needed: set[str],
    kept: set[str],
    count: int,
    read: Callable[[str], bytes | None],
) -> Piece:
    documents = {version: read_version(remote, version) for version in list_versions(remote)}
    newest = sorted(documents, key=lambda version: documents[version]["registered_at"], reverse=True)[:count]
    stays = kept | set(newest)
    for version in stays & set(documents):
        needed = needed | set(documents[version]["files"].values())
        needed |= list_needed(documents[version]["lineage"].get("dvc.lock", ""), read)
    unneeded = [found for found in remote.list_objects(older_than_s=SETTLED_S) if found[0] not in needed]

    def remove() -> None:
        with open_remote(home) as again:
            for version in set(documents) - stays:
                forget_files(again, version)
            for md5, _ in unneeded:
                again.remove_object(md5)

    return Piece("remote objects", len(unneeded), sum(size for _, size in unneeded), "of no kept version", remove)


def _walk(place: Path) -> list[tuple[Path, int, float]]:
    """Return (path, bytes, time of the last change) of every file at or below ``place``; links are not followed."""
    found = []
    for path in [place] if place.is_file() else place.rglob("*"):
        try:
            status = path.lstat()
        except OSError:
            continue  # it went meanwhile
        if not path.is_dir() or path.is_symlink():
            found.append((path, status.st_size, status.st_mtime))
    return found


def apply_cleaning(home: Workspace, pieces: list[Piece]) -> None:
    """Remove what was planned, and folders that it left empty."""
    for piece in pieces:
        piece.remove()
        logger.info("removed %s count=%d bytes=%d", piece.what, piece.count, piece.bytes)
    for folder in (home.cache, home.state / "incoming"):
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
