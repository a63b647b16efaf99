"""The locks of a workspace: one for what makes versions, one for the watch.

Each is a lock of the system, which dies with its holder. Beside it DVC's own lock on every output is held while
versions are made: without it ``dvc repro`` would delete an output that it means to make again before it finds out
that another run is at work.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from regraft.serving.files.durable import StorageError, explain_storage, write_json
from regraft.tasks.workspace.workspace import Workspace

Work = Literal["make", "watch"]


class WorkspaceBusy(RuntimeError):  # noqa: N818 - it is a state, not a fault
    """Another process holds the lock; nothing was changed."""

    exit_code = 4


@contextmanager
def hold_lock(home: Workspace, work: Work) -> Iterator[None]:
    """Hold the lock for ``work``; the system releases it when its holder dies, however it dies.

    Raises:
        WorkspaceBusy: If another process holds it, or DVC is at work on the outputs that making a version writes.
    """
    with _hold(home, work) as died:
        if work == "watch":
            yield
            return
        with _reserve_outputs(home, died):
            yield


@contextmanager
def hold_stage_lock(home: Workspace) -> Iterator[None]:
    """Hold the lock to make for one stage that ``dvc repro`` runs: DVC reserves its outputs itself.

    Raises:
        WorkspaceBusy: If another process holds the lock.
    """
    with _hold(home, "make"):
        yield


@contextmanager
def _hold(home: Workspace, work: Work) -> Iterator[dict[str, Any] | None]:
    """Hold the lock; yield what the last holder wrote about itself if it died before it released the lock."""
    home.state.mkdir(parents=True, exist_ok=True)
    lock, note = FileLock(home.state / f"{work}.lock"), home.state / f"{work}.holder.json"
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise WorkspaceBusy(_describe_holder(home, work, _read(note))) from error
    except PermissionError as error:
        raise StorageError(explain_storage(error, home.state) or str(error)) from error
    try:
        died = _read(note)
        write_json(note, {"pid": os.getpid(), "command": _command(), "host": socket.gethostname(), "at": time.time()})
        yield died
    finally:
        note.unlink(missing_ok=True)
        lock.release()


@contextmanager
def _reserve_outputs(home: Workspace, died: dict[str, Any] | None) -> Iterator[None]:
    from dvc.fs import localfs
    from dvc.lock import LockError
    from dvc.rwlock import _edit_rwlock, rwlock

    from regraft.tasks.workspace.dvc_repo import open_repository

    with open_repository(home.root) as repo:
        outputs = [out.fs_path for stage in repo.index.stages for out in stage.outs]
        folder, hardlink = str(Path(repo.tmp_dir).resolve()), bool(repo.config["core"].get("hardlink_lock", False))
    if died is not None:
        # DVC asks whether the process is alive; after a restart of the machine another one may have its number.
        with _edit_rwlock(folder, localfs, hardlink) as held:
            gone = {"pid": died["pid"], "cmd": died["command"]}
            held["write"] = {path: holder for path, holder in held["write"].items() if holder != gone}
    try:
        reserved = rwlock(folder, localfs, _command(), [], outputs, hardlink)
        reserved.__enter__()
    except LockError as error:
        raise WorkspaceBusy(f"DVC is at work in {home.root}; nothing was changed, wait for it. {error}") from error
    try:
        yield
    finally:
        reserved.__exit__(None, None, None)


def _command() -> str:
    return " ".join(sys.argv)  # as DVC names a holder, so that its calls in this process are not kept waiting


def _describe_holder(home: Workspace, work: Work, note: dict[str, Any] | None) -> str:
    doing = "a train, retrain or stage" if work == "make" else "a watch"
    if note is None:
        who = f"{doing} of another process"
    else:
        command = " ".join([Path(note["command"].split(" ")[0]).name, *note["command"].split(" ")[1:]])
        since = time.strftime("%H:%M:%S", time.localtime(note["at"]))
        who = f"{command[:200]} (process {note['pid']} on {note['host']}, since {since})"
    return f"{home.root} is busy: {who} is at work on it. Nothing was changed; try again when it has ended"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
