"""Sources that are folders: one folder per class, perhaps under train/, val/ and test/. Opens no image."""

import os
from collections import Counter
from pathlib import Path

from regraft.data.sources.entries import Entry, IntakeError, Listing, Refusal, clean_label, make_entry, show_path
from regraft.data.sources.layout import Layout, Shape, advise_classes, find_tables, read_shape
from regraft.data.sources.tree import Names, Tree, walk_tree

DOCUMENTS = frozenset(
    "." + name
    for names in ("txt md rst json jsonl xml csv tsv parquet yaml yml toml ini cfg names log pdf html py ipynb sh",)
    for name in names.split()
)
"""A folder that holds nothing else is no class that lost its images."""
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".lnk")


def list_folder(root: Path, layout: Layout | None = None) -> Listing:
    """Return what the folder ``root`` holds; the label of an image is the name of its class folder.

    Args:
        root: The folder.
        layout: What the user says about its levels.

    Raises:
        IntakeError: If there is nothing to learn from, or the layout can be read in two ways.
    """
    root = Path(os.path.realpath(root))
    tree = walk_tree(root)
    shape = read_shape(root, tree, layout or Layout())
    entries: list[Entry] = []
    spellings: Counter[str] = Counter()
    refused = [refusal for refusal in tree.refused if len(Path(refusal.path).parts) != shape.class_at + 1]
    for names, file in tree.files.items():
        if names in tree.links and len(names) == shape.class_at + 1:
            continue  # a class folder that is a link: named in ``empty``
        listed = _list_file(root, shape, names, file)
        (entries if isinstance(listed, Entry) else refused).append(listed)
        if label := shape.find_label(names):
            spellings[clean_label(label, strip=False)] += isinstance(listed, Entry)
    empty, notes = _find_empty(root, tree, shape, {entry.label for entry in entries})
    spellings.update(dict.fromkeys(empty, 0))
    _check_images(root, tree, entries, refused)
    return Listing(
        sorted(entries, key=lambda e: e.path),
        sorted(refused, key=lambda r: r.path),
        tree.ignored,
        empty,
        (*shape.notes, *notes, *_note_neighbours(root, tree, shape)),
        spellings,
    )


def _list_file(root: Path, shape: Shape, names: Names, file: Path) -> Entry | Refusal:
    path = show_path("/".join(names))
    label = clean_label(shape.find_label(names))
    if not label:
        return Refusal(path, None, "no_label", "lies beside the class folders, not in one")
    group = shape.find_group(names)
    try:
        return make_entry(path, file, label, clean_label(group) if group else None, shape.find_part(names), (root,))
    except OSError as error:
        return Refusal(path, label, "unreadable", error.strerror or "cannot be reached")


def _find_empty(root: Path, tree: Tree, shape: Shape, found: set[str]) -> tuple[dict[str, str], list[str]]:
    """Return why each class folder without an image has none, by label, and what to say about folders of documents."""
    others: dict[Names, Counter[str]] = {}
    for names in tree.others:
        if len(names) > shape.class_at + 1:
            kinds = others.setdefault(names[: shape.class_at + 1], Counter())
            kinds[Path(names[-1]).suffix.lower() or "nameless"] += 1
    empty: dict[str, str] = {}
    notes = []
    for names in sorted([*tree.folders, *tree.links]):
        label = clean_label(names[-1])
        if len(names) != shape.class_at + 1 or label in found or not _is_class_place(shape, names):
            continue
        shown, kinds = f"{show_path('/'.join(names))}/", others.get(names, Counter())
        if kinds and kinds.keys() <= DOCUMENTS:
            notes.append(f"{shown} holds no image, only {_count(kinds)}: it is not a class")
        elif names in tree.links:
            target = os.path.realpath(root.joinpath(*names))
            empty[label] = f"{shown} is a link to {show_path(target)}; put the folder itself there (links lead outside)"
        elif names in tree.closed:
            empty[label] = f"{shown} may not be listed; change its permissions"
        else:
            empty[label] = f"{shown} holds no image" + (f" ({_count(kinds)})" if kinds else ": it is empty")
    return empty, notes


def _is_class_place(shape: Shape, names: Names) -> bool:
    """Say whether a folder at the level of the classes lies where classes are: under a part if there are any."""
    return shape.part_at is None or shape.part_at > shape.class_at or names[shape.part_at] in shape.parts


def _note_neighbours(root: Path, tree: Tree, shape: Shape) -> list[str]:
    """Return what lies beside the class folders, is not read, and may have been meant to be."""
    notes = [
        f"{show_path('/'.join(names))} lies beside the class folders and is not read. To learn from it instead: "
        f"--data {root.joinpath(*names)}"
        for names in find_tables(tree)
        if len(names) <= shape.class_at + 1
    ]
    notes += [
        f"{show_path('/'.join(names))} lies beside the class folders and is not read; unpack it if it holds images"
        for names in tree.others
        if len(names) == shape.class_at + 1 and names[-1].lower().endswith(ARCHIVES)
    ]
    if tree.passed:
        shown = ", ".join(f"{show_path('/'.join(names))}/" for names in tree.passed)
        notes.append(f"passed over, as part of a workspace of regraft: {shown}")
    return notes


def _count(kinds: Counter[str]) -> str:
    return ", ".join(f"{count} {show_path(kind)}" for kind, count in sorted(kinds.items()))


def _check_images(root: Path, tree: Tree, entries: list[Entry], refused: list[Refusal]) -> None:
    """Refuse a folder without a single labelled image, and say what was there instead.

    Raises:
        IntakeError: If ``entries`` is empty.
    """
    if entries:
        return
    seen = [f"{count} {what}" for what, count in sorted(Counter(refusal.reason for refusal in refused).items())]
    seen += [f"{count} ignored {what}" for what, count in sorted(tree.ignored.items())]
    problem = f"no class folder with an image in it; found {', '.join(seen) or 'nothing'}"
    raise IntakeError(str(root), [problem], advise_classes(root, tree))
