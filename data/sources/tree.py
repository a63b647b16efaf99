"""What lies below a folder, by name and first bytes: files that claim to be images, other files, folders, links."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from regraft.data.sources.entries import Refusal, show_path
from regraft.data.sources.litter import find_litter

IMAGE_EXTENSIONS = frozenset(
    "." + name
    for names in (
        "jpg jpeg jpe jfif png gif bmp dib tif tiff webp",
        "avif heic heif jp2 j2k jxl ppm pgm pbm pnm tga ico svg psd exr hdr dcm dng",  # not read; their owner must know
    )
    for name in names.split()
)
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*")

Names = tuple[str, ...]
"""The names from below the root down to a file or folder."""


@dataclass(slots=True)
class Tree:
    """Everything below one folder, without what is hidden, left behind by a system or written by regraft.

    ``files`` claim to be images, ``others`` do not. ``folders`` has every folder, ``links`` the links that lead to one
    (or nowhere), ``closed`` the folders that may not be listed. ``ignored`` counts what was passed over by kind.
    """

    files: dict[Names, Path] = field(default_factory=dict)
    others: list[Names] = field(default_factory=list)
    folders: list[Names] = field(default_factory=list)
    links: set[Names] = field(default_factory=set)
    closed: set[Names] = field(default_factory=set)
    passed: list[Names] = field(default_factory=list)
    """Workspaces of regraft, and their stores."""
    ignored: Counter[str] = field(default_factory=Counter)
    refused: list[Refusal] = field(default_factory=list)


def walk_tree(root: Path) -> Tree:
    """Return what lies below ``root``; links are named and never followed."""
    tree = Tree()
    for names, file in _walk(root, (), tree):
        extension = Path(names[-1]).suffix.lower()
        regular = file.is_file() and not file.is_symlink()
        if extension in IMAGE_EXTENSIONS or not regular or _has_signature(file):
            tree.files[names] = file
        else:
            tree.others.append(names)
            tree.ignored[show_path(extension) or "none"] += 1
    return tree


def _walk(folder: Path, names: Names, tree: Tree) -> Iterator[tuple[Names, Path]]:
    """Yield every file below ``folder``, in the order of the names, and note the folders in ``tree``."""
    try:
        with os.scandir(folder) as found:
            items = sorted(found, key=lambda item: item.name)
    except PermissionError:
        tree.closed.add(names)
        tree.refused.append(Refusal(show_path("/".join(names)), None, "no_permission", "the folder cannot be listed"))
        return
    for item in items:
        path, place = Path(item.path), (*names, item.name)
        if item.is_dir(follow_symlinks=False):
            if (why := find_litter(path)) is None:
                tree.folders.append(place)
                yield from _walk(path, place, tree)
            elif why == "workspace":
                tree.passed.append(place)
        elif item.name.startswith("."):
            tree.ignored["hidden"] += 1
        else:
            if item.is_symlink() and (path.is_dir() or not path.exists()):
                tree.links.add(place)
            yield place, path


def _has_signature(file: Path) -> bool:
    """Return whether the first bytes of a regular file are those of a common image format."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return True  # the reader gives the reason
    try:
        start = os.read(descriptor, 16)
    finally:
        os.close(descriptor)
    bitmap = start[:2] == b"BM" and start[6:10] == bytes(4)
    return start.startswith(SIGNATURES) or bitmap or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
