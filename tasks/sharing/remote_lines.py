"""Lines of history in the remote: a set that copies of a workspace only ever add to, so that no two can disagree."""

import hashlib
from pathlib import Path

from regraft.serving.files.json_lines import append_lines, decode_lines, read_lines
from regraft.tasks.sharing.remote_store import RemoteStore

FOLDER = "lines"


def put_lines(remote: RemoteStore, path: Path) -> int:
    """Send the lines of ``path`` that the remote lacks; return how many.

    All lines go into one new document, then those that were read are removed: what another copy adds meanwhile stays.
    """
    names, theirs = _read_remote(remote, path)
    mine = read_lines(path)
    missing = set(mine) - theirs
    if not missing and len(names) < 2:
        return 0
    content = b"".join(line + b"\n" for line in sorted(theirs | set(mine)))
    name = f"{hashlib.sha256(content).hexdigest()[:16]}.jsonl"
    remote.write(_folder(path), name, content)
    for old in set(names) - {name}:
        remote.remove(_folder(path), old)
    return len(missing)


def get_lines(remote: RemoteStore, path: Path) -> int:
    """Append the lines that only the remote has to ``path``; return how many."""
    missing = sorted(_read_remote(remote, path)[1] - set(read_lines(path)), key=_date)
    append_lines(path, missing)
    return len(missing)


def _date(line: bytes) -> tuple[float, bytes]:
    """Return what orders lines by the time that they name, if they name one."""
    at = next((found.get("at") for found in decode_lines([line])), None)
    return (float(at) if isinstance(at, int | float) else 0.0, line)


def _folder(path: Path) -> str:
    return f"{FOLDER}-{path.stem}"


def _read_remote(remote: RemoteStore, path: Path) -> tuple[list[str], set[bytes]]:
    """Return the documents that were read whole, and the lines of all of them."""
    names, lines = list[str](), set[bytes]()
    for name in remote.list(_folder(path)):
        content = remote.read(_folder(path), name) or b""
        if name == f"{hashlib.sha256(content).hexdigest()[:16]}.jsonl":  # else it is just being written
            names.append(name)
            lines.update(content.split(b"\n")[:-1])
    return names, lines
