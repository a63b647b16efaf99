"""Folders for temporary files whose owner may be killed: each is locked while it is in use, and cleared afterwards."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path


def claim_scratch(parent: Path) -> tuple[Path, int]:
    """Return a new folder below ``parent`` and the descriptor that keeps it claimed, after clearing what nobody claims.

    The claim ends when the descriptor is closed in every process that has inherited it, also by ``kill -9``.
    """
    parent.mkdir(parents=True, exist_ok=True)
    clear_scratch(parent)
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent))
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if folder.is_dir():  # another start may have cleared it before it was claimed
            return folder, descriptor
        os.close(descriptor)


def clear_scratch(parent: Path) -> None:
    """Remove every folder and file below ``parent`` that no living process claims."""
    for path in parent.iterdir():
        if path.is_dir() and not path.is_symlink():
            _clear_folder(path)
        else:
            path.unlink(missing_ok=True)


def _clear_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return  # in use
    finally:
        os.close(descriptor)
