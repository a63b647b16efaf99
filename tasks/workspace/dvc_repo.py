"""The DVC repository of a workspace, opened the one way that works from any folder and keeps standard output clean."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def open_repository(root: Path) -> Iterator[Any]:
    """Yield ``dvc.repo.Repo`` of ``root``; inside the block ``root`` is the current folder.

    DVC looks names and paths up from the current folder, wherever its repository is said to be.
    """
    from dvc.repo import Repo

    quiet_dvc()
    with contextlib.chdir(root), Repo(str(root)) as repo:
        yield repo


def quiet_dvc() -> None:
    """Keep DVC's remarks off standard output, which belongs to ``--json``."""
    logging.getLogger("dvc").setLevel(logging.WARNING)
