"""Files that are either the old or the new content, never half: temp + fsync + rename + directory fsync."""

import json
import os
import shutil
from pathlib import Path
from typing import Any


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically; parents are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
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
