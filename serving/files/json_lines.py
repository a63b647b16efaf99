"""Files of JSON lines that several writers append to: a line counts once its newline is there.

What a writer that died left behind is cut off by the next one, so that it spoils no line but its own.
"""

import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regraft.serving.files.durable import storing, sync_folder


def append_lines(path: Path, lines: Sequence[bytes]) -> None:
    """Add ``lines``, without their newlines, to ``path`` and sync them; the file and its folder are made if absent.

    Safe beside other writers on one machine.
    """
    if not lines:
        return
    with storing(path, sum(map(len, lines))):
        _append(path, lines)


def _append(path: Path, lines: Sequence[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        data = file.read()
        whole = data.rfind(b"\n") + 1
        joint = b"\n" if decode_lines([data[whole:]]) else b""  # a line that lost only its end keeps its content
        file.truncate(len(data) if joint else whole)
        file.write(joint + b"".join(line + b"\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync_folder(path.parent)


def read_lines(path: Path) -> list[bytes]:
    """Return every line that was written to its end, without its newline; none if there is no file."""
    if not path.exists():
        return []
    return path.read_bytes().split(b"\n")[:-1]


def encode_line(value: Any) -> bytes:
    """Return ``value`` as one canonical line: sorted keys, no newline."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False).encode()


def decode_lines(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """Return the lines that hold a JSON object; what is damaged otherwise is left out."""
    found = []
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found
