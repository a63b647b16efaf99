"""One listed file becomes one manifest row: read without trusting it, hashed, decoded as the server would, measured."""

import hashlib
import os
import stat
from typing import Any

from regraft.data.dataset.brightness import measure_brightness
from regraft.data.dataset.twins import describe_look
from regraft.data.sources.entries import Entry, Refusal
from regraft.serving.decoding.preprocess import ImageError, decode_image

Row = dict[str, Any]


class _Refused(Exception):  # noqa: N818 - becomes a Refusal
    """Carries (reason, detail) out of the functions below."""

    exit_code = None


def read_entry(
    entry: Entry, *, max_bytes: int, max_pixels: int, image: bytes | None = None
) -> tuple[Row | Refusal, bytes]:
    """Return the manifest row of one file with its bytes, or why there is none (then without bytes).

    Args:
        entry: As it was listed; a file that is another one by now is refused.
        max_bytes: File size above which nothing is read.
        max_pixels: Width times height above which nothing is decoded.
        image: Its bytes, where they are at hand; the file is then not opened.
    """
    try:
        if entry.size > max_bytes:
            raise _Refused("too_large", f"the file has {entry.size} bytes, at most {max_bytes} are read")
        image = _read_bytes(entry) if image is None else image
        return _measure(entry, image, max_pixels), image
    except _Refused as refused:
        reason, detail = refused.args
    except ImageError as error:
        reason, detail = error.code, str(error)
    except PermissionError:
        reason, detail = "no_permission", "the file may not be read; change its permissions"
    except OSError as error:
        reason, detail = "unreadable", f"the file cannot be read ({error.strerror or error})"
    return Refusal(entry.path, entry.label, reason, detail), b""


def _read_bytes(entry: Entry) -> bytes:
    """Return the content of a regular file that is as it was listed, before and after reading; never blocks."""
    try:
        descriptor = os.open(entry.file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _changed() from None
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _changed()
        image = file.read(entry.size + 1)
        after = os.fstat(descriptor)
    if (after.st_size, after.st_mtime_ns, len(image)) != (entry.size, entry.mtime_ns, entry.size):
        raise _changed()
    return image


def _changed() -> _Refused:
    return _Refused("changed", "the file changed between listing and reading; run again when nothing writes there")


def _measure(entry: Entry, image: bytes, max_pixels: int) -> Row:
    decoded = decode_image(image, max_pixels=max_pixels, value_range="own")
    return {
        "sha256": hashlib.sha256(image).hexdigest(),
        "path": entry.path,
        "label": entry.label,
        "group": entry.group,
        "given_part": entry.part,
        "sampling": entry.sampling,
        "width": decoded.width,
        "height": decoded.height,
        "mode": decoded.mode,
        "format": decoded.format,
        "frames": decoded.frames,
        "bytes": len(image),
        "look": describe_look(decoded.pixels),
        **measure_brightness(decoded),
    }
