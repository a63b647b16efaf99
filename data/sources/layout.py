"""What the folder levels of a source mean: a wrapper, parts, classes, groups. Asks where there are two readings."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from regraft.data.sources.entries import IntakeError, show_path
from regraft.data.sources.parts import are_folds, name_parts
from regraft.data.sources.tables import describe_table
from regraft.data.sources.tree import Names, Tree

LOOSE_SHARE = 0.05
"""Share of images beside the inner folders up to which the inner level may be that of the classes."""
NAMED = 6


@dataclass(frozen=True, slots=True)
class Layout:
    """How the user says that a source is to be read; None leaves it to the folders.

    ``classes_at`` and ``groups_at`` are folder levels from 1, not counting a lone wrapper nor the folders of parts.
    ``alike`` says what becomes of class names that differ in case or blanks only: "merge", "apart", or None (asked);
    ``spellings`` is what was decided, from a spelling to the label.
    """

    classes_at: int | None = None
    groups_at: int | None = None
    alike: str | None = None
    spellings: tuple[tuple[str, str], ...] = ()

    def over(self, earlier: "Layout") -> "Layout":
        """Return ``earlier`` with everything that this one says in its place."""
        return Layout(
            self.classes_at or earlier.classes_at,
            self.groups_at or earlier.groups_at,
            self.alike or earlier.alike,
            self.spellings or earlier.spellings,
        )

    def check(self) -> "Layout":
        """Return this layout.

        Raises:
            IntakeError: If it contradicts itself.
        """
        problems = []
        if self.alike not in (None, "merge", "apart"):
            problems.append(f"--similar-labels takes merge or apart, not {self.alike!r}")
        if self.groups_at is not None and self.groups_at == (self.classes_at or 1):
            problems.append(f"--groups-at {self.groups_at} is the level of the classes")
        if problems:
            raise IntakeError("the layout", problems)
        return self


class LayoutQuestion(IntakeError):  # noqa: N818 - a question to the user
    """Folders that can be read in two ways; ``readings`` has the labels of each level."""

    title = "the folders can be read in more than one way"

    def __init__(self, root: Path, readings: Mapping[int, tuple[str, ...]]) -> None:
        self.readings = readings
        outer = _list_names(readings[1])
        super().__init__(
            str(root),
            [f"the classes are {_list_names(labels)}: --classes-at {level}" for level, labels in readings.items()],
            f"Say which, for instance: regraft train --data {root} --classes-at 2\n"
            f"Where the folders of the other level hold images that belong together, name it too: --classes-at 2 "
            f"--groups-at 1 keeps all images of one of {outer} in the same part.",
        )

    def find_level(self, labels: Collection[str]) -> int | None:
        """Return the level whose labels are ``labels``, if one is."""
        return next((level for level, names in self.readings.items() if set(names) == set(labels)), None)


@dataclass(frozen=True, slots=True)
class Shape:
    """What each level is: places in the names of a file. ``parts`` gives the part of each folder at ``part_at``."""

    inside: int
    part_at: int | None
    parts: Mapping[str, str]
    class_at: int
    group_at: int | None
    notes: tuple[str, ...]

    def find_label(self, names: Names) -> str:
        """Return the class folder that a file lies in, as it is written; empty if it lies in none."""
        return names[self.class_at] if len(names) > self.class_at + 1 else ""

    def find_group(self, names: Names) -> str | None:
        """Return the group folder that a file lies in, if groups are asked for and it lies in one."""
        return names[self.group_at] if self.group_at is not None and len(names) > self.group_at + 1 else None

    def find_part(self, names: Names) -> str | None:
        """Return the part that a file is given to, if the source has parts."""
        return None if self.part_at is None or len(names) <= self.part_at else self.parts.get(names[self.part_at])


def read_shape(root: Path, tree: Tree, layout: Layout) -> Shape:
    """Return what the levels below ``root`` mean.

    Raises:
        LayoutQuestion: If the classes may be at two levels and ``layout`` does not say at which.
        IntakeError: If parts are mixed with other folders, or hold images without class folders.
    """
    inside = _find_wrapper(tree)
    wrapper = next((names[:inside] for names in tree.folders if len(names) >= inside), ())
    notes = [f"{'/'.join(_say(wrapper))}/ holds everything and was entered"] if inside else []
    part_at, parts = _find_parts(root, tree, inside, layout)
    if part_at is not None:
        shown = ", ".join(f"{show_path(name)}/ {part}" for name, part in sorted(parts.items()))
        notes.append(f"given parts: {shown}")
    levels = [place for place in range(inside, inside + 9) if place != part_at]
    first = {names[levels[0]] for names in tree.files if len(names) > levels[0] + 1}
    classes_at = layout.classes_at
    if classes_at is None and are_folds(first):
        classes_at = _pass_folds(root, tree, first, levels)
        notes.append(f"{_list_names(_say(sorted(first)))} are folds: the classes are the folders in them")
    if classes_at is None:
        _ask(root, tree, levels)
    group_at = None if layout.groups_at is None else levels[layout.groups_at - 1]
    return Shape(inside, part_at, parts, levels[(classes_at or 1) - 1], group_at, tuple(notes))


def _find_wrapper(tree: Tree) -> int:
    """Return how many lone folders lie around everything: entered, as long as there is nothing beside them."""
    depth = 0
    while True:
        here = {names[depth] for names in (*tree.folders, *tree.files) if len(names) > depth}
        inner = {names[depth + 1] for names in tree.folders if len(names) > depth + 1}
        loose = any(len(names) <= depth + 2 for names in tree.files)
        if len(here) != 1 or loose or not inner or name_parts(here):
            return depth
        depth += 1


def _find_parts(root: Path, tree: Tree, inside: int, layout: Layout) -> tuple[int | None, dict[str, str]]:
    """Return the level that names parts and the part of each folder there; (None, {}) if none does.

    Raises:
        IntakeError: If part folders and others lie side by side, train/ is missing, or there are no class folders.
    """
    first = {names[inside] for names in tree.files if len(names) > inside + 1}
    deep = {names[inside] for names in tree.files if len(names) > inside + 2}
    parts = name_parts(first)
    known = {name for name in deep if name in parts}
    if known and not (first - known and layout.classes_at):
        _check_parts(root, first, known, parts)
        return inside, {name: parts[name] for name in known}
    if first and (parts.keys() == first) and layout.classes_at != 1:
        problem = f"{_join(first)} are parts of a data set, not classes, and hold images without class folders"
        raise IntakeError(str(root), [problem], advise_classes(root, tree))
    second = {names[inside + 1] for names in tree.files if len(names) > inside + 2}
    inner = name_parts(second)
    if len(second) > 1 and inner.keys() == second and "train" in inner.values() and not layout.classes_at:
        return inside + 1, inner  # cat/train/, cat/test/
    return None, {}


def _check_parts(root: Path, first: set[str], known: set[str], parts: Mapping[str, str]) -> None:
    problems = [
        f"{show_path(name)}/ holds images without class folders; {_join(known)} have them"
        if name in parts
        else f"{show_path(name)}/ lies beside {_join(known)}: which part is it?"
        for name in sorted(first - known)
    ]
    if "train" not in {parts[name] for name in known}:
        problems.append(f"there is {_join(known)} but no train/")
    if problems:
        advice = (
            "Give every class folder a part (train/, val/, test/), or none of them. If the first level names the "
            "classes: --classes-at 1"
        )
        raise IntakeError(str(root), problems, advice)


def _pass_folds(root: Path, tree: Tree, first: set[str], levels: list[int]) -> int:
    """Return the level of the classes below folds.

    Raises:
        IntakeError: If the folds hold images without class folders.
    """
    if any(len(names) <= levels[1] + 1 for names in tree.files if len(names) > levels[0] + 1):
        problem = f"{_list_names(_say(sorted(first)))} are folds, not classes, and hold images without class folders"
        raise IntakeError(str(root), [problem], advise_classes(root, tree))
    return 2


def _ask(root: Path, tree: Tree, levels: list[int]) -> None:
    """Ask which level has the classes, where folders of the same names repeat below the first.

    Raises:
        LayoutQuestion: If so.
    """
    inner: dict[str, set[str]] = {}
    loose = total = 0
    for names in tree.files:
        if len(names) > levels[0] + 1:
            total += 1
            found = inner.setdefault(names[levels[0]], set())
            if len(names) > levels[1] + 1:
                found.add(names[levels[1]])
            else:
                loose += 1
    every = [name for found in inner.values() for name in found]
    repeated = len(set(every)) < len(every)
    many = sum(len(found) > 1 for found in inner.values())
    if len(inner) < 2 or not repeated or 2 * many < len(inner) or loose > LOOSE_SHARE * total:
        return
    raise LayoutQuestion(root, {1: tuple(_say(sorted(inner))), 2: tuple(_say(sorted(set(every))))})


def advise_classes(root: Path, tree: Tree) -> str:
    """Return what to do with images that lie in no class folder, naming the tables that may hold their labels."""
    hint = "".join(f"\n{describe_table(root.joinpath(*names))}" for names in find_tables(tree))
    return f"Put the images of each class into a folder of that name.{hint}"


def find_tables(tree: Tree) -> list[Names]:
    """Return the tables that lie above every image folder but the first level, those that may be manifests."""
    return [names for names in tree.others if len(names) <= 2 and names[-1].lower().endswith((".csv", ".parquet"))]


def _say(names: Collection[str]) -> list[str]:
    return [show_path(name) for name in names]


def _join(names: Collection[str]) -> str:
    return "/, ".join(_say(sorted(names))) + "/"


def _list_names(names: Collection[str]) -> str:
    shown = list(names)[:NAMED]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
