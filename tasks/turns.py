"""Who works on a workspace takes turns: what makes versions is one turn, the watch another."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from filelock import FileLock, Timeout

from tasks.workspace import Workspace


class WorkspaceBusy(RuntimeError):  # noqa: N818 - it is a state, not a fault
    """Another process has the turn."""


@contextmanager
def take_turn(home: Workspace, work: Literal["make", "watch"]) -> Iterator[None]:
    """Hold the turn for ``work``; the system gives it back when its holder dies, however it dies.

    Raises:
        WorkspaceBusy: If another process holds it.
    """
    home.state.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home.state / f"{work}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        doing = "train or retrain" if work == "make" else "watch"
        raise WorkspaceBusy(
            f"another {doing} of {home.root} is under way; wait for it, or look at it in the UI"
        ) from error
    try:
        yield
    finally:
        lock.release()
