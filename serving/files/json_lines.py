"""Files of JSON lines that several writers append to: a line counts once it is whole.

What a writer that died left behind is cut off by the next one, so that it spoils no line but its own.
"""

import fcntl
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from regraft.serving.files.durable import storing, sync_folder

logger = logging.getLogger(__name__)


def append_lines(path: Path, lines: Sequence[bytes]) -> None:
    """Add ``lines``, without their newlines, to ``path`` and sync them; the file and its folder are made if absent.

    Safe beside other writers on one machine.
    """
    if lines:
        append_chosen(path, lambda present: lines)


def append_chosen(path: Path, choose: Callable[[list[bytes]], Sequence[bytes]]) -> bool:
    """Add the lines that ``choose`` returns, shown the lines that are there; no other writer comes between.

    Args:
        path: The file; made with its folder if absent.
        choose: Gets and returns lines without their newlines. Where it returns none, or raises, the file stays.

    Returns:
        Whether anything was added.
    """
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        with path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            data = file.read()
            present, torn = _split(data)
            lines = choose(present)
            if lines:
                file.truncate(len(data) - len(torn))
                joint = b"" if torn or data.endswith(b"\n") or not data else b"\n"
                file.write(joint + b"".join(line + b"\n" for line in lines))
                file.flush()
                os.fsync(file.fileno())
        if is_new:
            sync_folder(path.parent)
    return bool(lines)


def read_lines(path: Path) -> list[bytes]:
    """Return every whole line, without its newline; none if there is no file."""
    if not path.exists():
        return []
    lines, torn = _split(path.read_bytes())
    if torn:
        logger.warning("torn last line skipped path=%s line=%d bytes=%d", path.name, len(lines) + 1, len(torn))
    return lines


def _split(data: bytes) -> tuple[list[bytes], bytes]:
    """Return the whole lines, and what a writer that died left of the last one."""
    *lines, last = data.split(b"\n")
    if decode_lines([last]):  # a line that lost only its end keeps its content
        return [*lines, last], b""
    return lines, last


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
