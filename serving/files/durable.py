"""Files that are either the old or the new content, never half: temp + fsync + rename + directory fsync."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
NOT_ALLOWED = {errno.EROFS, errno.EACCES, errno.EPERM}


class StorageError(OSError):
    """The disk does not take a file: the message says which, how much was needed, and what to do."""

    exit_code = 1

    def __str__(self) -> str:
        return str(self.args[0])


def explain_storage(error: OSError, path: Path, needed: int | None = None) -> str | None:
    """Return what keeps ``path`` from being written and what to do about it; None if it is something else.

    Args:
        error: What the system said.
        path: File or folder that was to be written.
        needed: Bytes that were to be written, where known.
    """
    if error.errno in NO_ROOM:
        place = next((parent for parent in [path, *path.parents] if parent.exists()), Path("/"))
        free = shutil.disk_usage(place).free
        wanted = f"{needed / 2**20:,.1f} MiB were needed, " if needed is not None else ""
        return (
            f"the disk is full: {path} could not be written, {wanted}{free / 2**20:,.1f} MiB are free. "
            "Make room (regraft clean says what can go) and run again: finished stages are kept"
        )
    if error.errno in NOT_ALLOWED:
        return f"{path} could not be written ({error.strerror}): make its folder writable, or use a copy that is"
    return None


@contextlib.contextmanager
def storing(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turn a full disk or a lacking permission into a StorageError that names ``path``."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if told := explain_storage(error, path, needed):
            raise StorageError(told) from error
        raise


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically; parents are made.

    Raises:
        StorageError: If the disk is full or may not be written.
    """
    with storing(path, len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()  # a full disk should not be kept full by what did not fit
            raise
        sync_folder(path.parent)


def encode_json(value: Any) -> bytes:
    """Return the canonical JSON of ``value``: sorted keys, no NaN, one trailing newline."""
    return (json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as canonical JSON to ``path`` atomically."""
    write_bytes(path, encode_json(value))


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below ``folder`` to the disk."""
    for path in sorted(folder.rglob("*")):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    sync_folder(folder)


def replace_folder(temporary: Path, final: Path) -> None:
    """Put the complete folder ``temporary`` in the place of ``final``.

    A crash between the two renames leaves no ``final``; a stage that is run again writes it anew.
    """
    with storing(final):
        _exchange(temporary, final)


def _exchange(temporary: Path, final: Path) -> None:
    sync_tree(temporary)
    if final.exists():
        retired = final.with_name(f".{final.name}.{os.getpid()}.old")
        final.rename(retired)
        temporary.rename(final)
        shutil.rmtree(retired)
    else:
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary.rename(final)
    sync_folder(final.parent)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
