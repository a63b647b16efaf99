"""What a source lists: one entry per image file to read, one refusal per file that must not be opened.

``data/sources/folders.py`` and ``data/sources/tables.py`` make listings; ``data/dataset/ingest.py`` reads the files.
"""

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

SAMPLINGS = ("random", "uncertain", "volunteered")
"""How a production image came to be labelled; only a random one may judge a model."""
SHOWN = 10


class IntakeError(ValueError):
    """A source that cannot be taken in; ``problems`` holds every one of them, the message the first."""

    exit_code = 2
    title: str | None = None
    """What all problems of a subclass are, in place of their number."""

    def __init__(self, where: str, problems: Iterable[str], advice: str = "") -> None:
        self.problems = list(problems)
        more = len(self.problems) - SHOWN
        lines = [f"{where}: {self.title or f'{len(self.problems)} problem' + 's'[: len(self.problems) != 1]}"]
        lines += [f"  - {problem}" for problem in self.problems[:SHOWN]]
        lines += [f"  - and {more} more"] if more > 0 else []
        super().__init__("\n".join(lines + ([advice] if advice else [])))


@dataclass(frozen=True, slots=True)
class Entry:
    """One image file as it was listed; ``path`` is what reports show, ``file`` is what is opened.

    ``sampling`` is one of ``SAMPLINGS`` for a labelled production image, None for a set that is given as a whole.
    """

    path: str
    file: Path
    label: str
    group: str | None
    part: str | None
    size: int
    mtime_ns: int
    sampling: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """One file that is not part of the dataset; ``reason`` is a short code, ``detail`` a sentence."""

    path: str
    label: str | None
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Listing:
    """All that a source holds, both sorted by path; ``ignored`` counts other files by extension.

    ``empty`` says of each class that is named but has no image why so, ``notes`` are sentences for the user, and
    ``spellings`` counts the images of every class name as the source writes it.
    """

    entries: list[Entry]
    refused: list[Refusal]
    ignored: Counter[str]
    empty: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    spellings: Mapping[str, int] = field(default_factory=dict)


def show_path(path: str) -> str:
    """Return ``path`` with bytes that are not UTF-8 written as ``\\xff``, so that it can be stored as text."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def clean_label(text: str, *, strip: bool = True) -> str:
    """Return the label as every later step spells it: NFC, and no blanks around unless ``strip`` keeps them."""
    label = unicodedata.normalize("NFC", show_path(text))
    return label.strip() if strip else label


def find_refusal(file: Path, roots: tuple[Path, ...]) -> tuple[str, str] | None:
    """Return why ``file`` must not be opened, as (reason, detail), or None. Never opens it.

    Args:
        file: An existing path; a symlink counts by where it leads.
        roots: Resolved folders that a symlink may lead into.

    Raises:
        OSError: If the path (not the target of a symlink) does not exist or cannot be reached.
    """
    mode = os.lstat(file).st_mode
    if stat.S_ISLNK(mode):
        target = Path(os.path.realpath(file))
        if not any(target.is_relative_to(root) for root in roots):
            return "symlink", "a symlink that leads out of the source; copy the file, or name the folder it leads to"
        try:
            mode = os.lstat(target).st_mode
        except OSError as error:
            return "symlink", f"a symlink that leads nowhere ({error.strerror})"
    if stat.S_ISDIR(mode):
        return "linked_folder", "a symlink to a folder; copy the folder, or name it as a source of its own"
    if not stat.S_ISREG(mode):
        return "special_file", "a FIFO, socket or device, not a regular file"
    return None


def make_entry(
    path: str,
    file: Path,
    label: str,
    group: str | None,
    part: str | None,
    roots: tuple[Path, ...],
    sampling: str | None = None,
) -> Entry | Refusal:
    """Return the entry of one file, or its refusal when it must not be opened.

    Raises:
        OSError: If the path does not exist.
    """
    if refusal := find_refusal(file, roots):
        return Refusal(path, label, *refusal)
    real = Path(os.path.realpath(file))
    status = real.stat()
    return Entry(path, real, label, group, part, status.st_size, status.st_mtime_ns, sampling)
