"""The lineage of a version: the lock, parameters and sources that lead back to its data, kept beside the registry."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from regraft.serving.files.durable import replace_folder, write_bytes
from regraft.tasks.workspace.workspace import Workspace


def list_lineage(home: Workspace) -> list[Path]:
    """Return what it takes to check the data of a version out again."""
    return [home.graph, home.lock, home.params, home.code, home.backbones_lock, home.intake, home.frozen]


def record_lineage(home: Workspace, version: str) -> None:
    """Keep what ``version`` was just made with, unless its lineage is kept already."""
    if not (home.lineage / version).exists():
        found = {path.relative_to(home.root).as_posix(): path for path in list_lineage(home) if path.exists()}
        keep_lineage(home, version, {name: path.read_bytes() for name, path in found.items()})


def keep_lineage(home: Workspace, version: str, files: Mapping[str, bytes]) -> None:
    """Write the lineage of ``version``: content by name, relative to the workspace."""
    temporary = home.lineage / f".{version}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, content in files.items():
        write_bytes(temporary / name, content)
    replace_folder(temporary, home.lineage / version)
