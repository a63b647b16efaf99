"""Folders that are no part of anybody's data: what systems leave behind, and what regraft itself wrote there."""

from pathlib import Path

SYSTEM_FOLDERS = frozenset(
    (
        "__macosx",
        "@eadir",  # Synology: thumbnails that would be read as images
        "@recycle",
        "@recently-snapshot",
        "@snapshot",
        "@tmp",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "recycler",
        "recycled",
        "system volume information",
        "network trash folder",
        "temporary items",
        "thevolumesettingsfolder",
        "lost+found",
        "~snapshot",
        "__pycache__",
    )
)
"""Compared without case; whatever begins with a dot is hidden anyway."""
WORKSPACE_MARKS = ("params.yaml", "dvc.yaml", ".dvc")
STORES = ("data", "models")


def find_litter(folder: Path) -> str | None:
    """Return why ``folder`` is passed over: "hidden", "system", "workspace"; None if it belongs to the data.

    A workspace keeps images of its own (golden ones, labelled production, shards); none may come back as a class.
    """
    if folder.name.startswith("."):
        return "hidden"
    if folder.name.strip().casefold() in SYSTEM_FOLDERS:
        return "system"
    return "workspace" if is_workspace(folder) or _is_store(folder) or (folder / "files" / "md5").is_dir() else None


def is_workspace(folder: Path) -> bool:
    """Say whether ``folder`` is a workspace of regraft."""
    return all((folder / mark).exists() for mark in WORKSPACE_MARKS)


def _is_store(folder: Path) -> bool:
    """Say whether ``folder`` is a workspace's ``data/store`` or ``models/store``, or holds nothing but that."""
    if folder.name == "store" and folder.parent.name in STORES:
        return is_workspace(folder.parent.parent)
    if folder.name not in STORES or not is_workspace(folder.parent):
        return False
    return {item.name for item in folder.iterdir() if not item.name.startswith(".")} == {"store"}
