"""A disk that is full, read-only or forbidden, told from the error of whichever library met it first."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

from regraft.serving.files.durable import explain_storage

Kind = Literal["full", "read-only", "forbidden", "handles"]

NUMBERS: dict[int | None, Kind] = {
    errno.ENOSPC: "full",
    errno.EDQUOT: "full",
    errno.EROFS: "read-only",
    errno.EACCES: "forbidden",
    errno.EPERM: "forbidden",
    errno.EMFILE: "handles",
    errno.ENFILE: "handles",
}
TEXTS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    # SQLite, Rust and Arrow say it in words only.
    ("full", re.compile(r"no space left on device|database or disk is full", re.IGNORECASE)),
    ("full", re.compile(r"disk quota exceeded", re.IGNORECASE)),
    ("read-only", re.compile(r"read-only file system|attempt to write a readonly database", re.IGNORECASE)),
    ("forbidden", re.compile(r"permission denied \(os error|unable to open database file", re.IGNORECASE)),
    ("handles", re.compile(r"too many open files", re.IGNORECASE)),
)
OURS = ("/flows/", "/tasks/", "/data/", "/models/", "/serving/")
NEARLY_FULL_BYTES = 4 * 2**20


def explain_disk(chain: Sequence[BaseException]) -> str | None:
    """Return what is wrong with the disk and what to do, or None if none of ``chain`` is about a disk.

    Args:
        chain: An error and what it was raised from.
    """
    for error in chain:
        kind = _kind_of(error)
        if kind is not None:
            places = [*_places_of(error), *(place for other in chain for place in _places_of(other)), Path.cwd()]
            return _describe(kind, places)
    return None


def _kind_of(error: BaseException) -> Kind | None:
    if isinstance(error, OSError) and error.errno in NUMBERS:
        return NUMBERS[error.errno]
    text = str(error)
    return next((kind for kind, pattern in TEXTS if pattern.search(text)), None)


def _describe(kind: Kind, places: list[Path]) -> str:
    path = places[0]
    if kind == "handles":
        return f"too many files are open at once, at {path}; allow more with: ulimit -n 4096"
    if kind == "read-only":
        return f"{path} cannot be written: its file system is read-only. Make it writable, or use a workspace elsewhere"
    if kind == "forbidden":
        return (
            f"no permission for {path}: this process runs as user {_user()}, {_owner(path)}. "
            "Change its rights, or use a workspace elsewhere"
        )
    # What was read from may be at hand as well, and temporary files lie elsewhere: the full device decides.
    full = (place for place in [*places, Path(tempfile.gettempdir())] if _free_bytes(place) < NEARLY_FULL_BYTES)
    return str(explain_storage(OSError(errno.ENOSPC, "no space left"), next(full, path)))


def _free_bytes(path: Path) -> int:
    return shutil.disk_usage(_existing(path)).free


def _places_of(error: BaseException) -> list[Path]:
    """Return the files an error may be about, the likeliest first; a copy names its source before its target."""
    names = (getattr(error, "filename2", None), getattr(error, "filename", None))
    return [Path(name) for name in names if isinstance(name, str | os.PathLike)] or _paths_in_hand(error.__traceback__)


def _paths_in_hand(traceback: TracebackType | None) -> list[Path]:
    """Return what our code was working on: ``write()`` does not know the name of its file, the caller's frame does."""
    found: list[Path] = []
    while traceback is not None:
        frame = traceback.tb_frame
        if any(floor in frame.f_code.co_filename for floor in OURS):
            # The innermost frame comes first; a workspace stands for whatever is written below it.
            values = [
                value if isinstance(value, Path) else getattr(value, "root", None) for value in frame.f_locals.values()
            ]
            found = [value for value in values if isinstance(value, Path) and value.is_absolute()] + found
        traceback = traceback.tb_next
    return found


def _existing(path: Path) -> Path:
    return next((one for one in (path, *path.absolute().parents) if one.exists()), Path("/"))


def _user() -> str:
    return str(os.geteuid()) if hasattr(os, "geteuid") else os.environ.get("USERNAME", "unknown")


def _owner(path: Path) -> str:
    place = _existing(path)
    return f"{place} belongs to user {place.stat().st_uid}"
