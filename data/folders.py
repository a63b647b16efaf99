"""Sources that are folders: one folder per class, or the same under train/, val/ and test/. Opens no image."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from data.entries import PART_NAMES, Entry, IntakeError, Listing, Refusal, clean_label, make_entry, show_path

IMAGE_EXTENSIONS = frozenset(
    "." + name
    for names in (
        "jpg jpeg jpe jfif png gif bmp dib tif tiff webp",
        "avif heic heif jp2 j2k jxl ppm pgm pbm pnm tga ico svg psd exr hdr dcm dng",  # not read; their owner must know
    )
    for name in names.split()
)
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*")

Located = tuple[tuple[str, ...], Path]


def list_folder(root: Path) -> Listing:
    """Return what the folder ``root`` holds; the label of an image is the name of its class folder.

    Raises:
        IntakeError: If there is nothing to learn from, or the layout can be read in two ways.
    """
    root = Path(os.path.realpath(root))
    ignored: Counter[str] = Counter()
    refused: list[Refusal] = []
    located = [item for item in _walk(root, (), refused, ignored) if _is_wanted(*item, ignored)]
    depth = 1 if _has_parts(root, [parts for parts, _ in located]) else 0
    entries: list[Entry] = []
    for parts, file in located:
        listed = _list_file(root, parts, file, depth)
        (entries if isinstance(listed, Entry) else refused).append(listed)
    _check_classes(root, entries, refused, ignored)
    return Listing(sorted(entries, key=lambda e: e.path), sorted(refused, key=lambda r: r.path), ignored)


def _walk(folder: Path, parts: tuple[str, ...], refused: list[Refusal], ignored: Counter[str]) -> Iterator[Located]:
    """Yield every file below ``folder`` that is not hidden, as (names below the root, path)."""
    try:
        with os.scandir(folder) as found:
            items = sorted(found, key=lambda item: item.name)
    except PermissionError:
        refused.append(Refusal(show_path("/".join(parts)), None, "no_permission", "the folder cannot be listed"))
        return
    for item in items:
        if item.is_dir(follow_symlinks=False):
            if not item.name.startswith((".", "__MACOSX")):
                yield from _walk(Path(item.path), (*parts, item.name), refused, ignored)
        elif item.name.startswith("."):
            ignored["hidden"] += 1
        else:
            yield (*parts, item.name), Path(item.path)


def _is_wanted(parts: tuple[str, ...], file: Path, ignored: Counter[str]) -> bool:
    """Return whether a file claims to be an image by its name or, failing that, by its first bytes."""
    extension = Path(parts[-1]).suffix.lower()
    regular = file.is_file() and not file.is_symlink()
    if extension in IMAGE_EXTENSIONS or not regular or _has_signature(file):
        return True
    ignored[show_path(extension) or "none"] += 1
    return False


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


def _has_parts(root: Path, found: list[tuple[str, ...]]) -> bool:
    """Return whether the first folder level names parts (train, val, test) and not classes.

    Raises:
        IntakeError: If part folders and other folders lie side by side, or train/ is missing.
    """
    parted = {parts[0] for parts in found if len(parts) > 2 and parts[0].lower() in PART_NAMES}
    if not parted:
        return False
    others = sorted({parts[0] for parts in found if len(parts) > 1} - parted)
    problems = [f"{show_path(name)}/ lies beside {'/, '.join(sorted(parted))}/: which part is it?" for name in others]
    if "train" not in {PART_NAMES[name.lower()] for name in parted}:
        problems.append(f"there is {'/ and '.join(sorted(parted))}/ but no train/")
    if problems:
        raise IntakeError(str(root), problems, "Give every class folder a part (train/, val/, test/), or none of them.")
    return True


def _list_file(root: Path, parts: tuple[str, ...], file: Path, depth: int) -> Entry | Refusal:
    path = show_path("/".join(parts))
    label = clean_label(parts[depth]) if len(parts) > depth + 1 else ""
    if not label:
        return Refusal(path, None, "no_label", "lies beside the class folders, not in one")
    part = PART_NAMES[parts[0].lower()] if depth else None
    try:
        return make_entry(path, file, label, None, part, (root,))
    except OSError as error:
        return Refusal(path, label, "unreadable", error.strerror or "cannot be reached")


def _check_classes(root: Path, entries: list[Entry], refused: list[Refusal], ignored: Counter[str]) -> None:
    """Refuse a folder without a single labelled image, and say what was there instead.

    Raises:
        IntakeError: If ``entries`` is empty.
    """
    if entries:
        return
    seen = [f"{count} {what}" for what, count in sorted(Counter(refusal.reason for refusal in refused).items())]
    seen += [f"{count} ignored {what}" for what, count in sorted(ignored.items())]
    tables = sorted(path.name for pattern in ("*.csv", "*.parquet") for path in root.glob(pattern))
    hint = f" Or name the manifest: {root / tables[0]}" if tables else ""
    raise IntakeError(
        str(root),
        [f"no class folder with an image in it; found {', '.join(seen) or 'nothing'}"],
        f"Put the images of each class into a folder of that name.{hint}",
    )
