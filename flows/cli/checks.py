"""What can be refused at once: looked at before torch, Prefect and DVC are imported, which takes seconds.

Nothing is decided here. Each check is one that would be made later all the same; whoever mistypes should not wait.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from regraft.tasks.workspace.workspace import WorkspaceError

if TYPE_CHECKING:
    from regraft.tasks.workspace.workspace import Workspace


def check_training(
    home: "Workspace", data: Path | None, backbones: str | None, assignments: list[str], time_budget: str | None
) -> None:
    """Raise what ``regraft train`` would raise for its options, as far as a glance shows it.

    Raises:
        ParamsError: If a ``--set`` or the time budget is malformed, or there is no such key or folder of backbones.
        IntakeError: If there are no images at ``data``.
        WorkspaceError: If the workspace has no source and none is given.
    """
    from regraft.tasks.settings.knobs import ParamsError, parse_assignments, require_known

    require_known(parse_assignments(assignments))
    if time_budget is not None:
        from regraft.tasks.settings.duration import parse_duration

        parse_duration(time_budget)
    if backbones is not None and "://" not in backbones and not Path(backbones).expanduser().is_dir():
        raise ParamsError(f"--backbones: {Path(backbones).expanduser().resolve()} is not a folder")
    if data is not None:
        _glance_at(data.expanduser().resolve())
    elif not home.intake.exists() and not home.dataset.exists() and not home.lock.exists():
        raise WorkspaceError(f"{home.root} knows no images yet; give it some with: regraft train --data DIR")


def check_stage(home: "Workspace", name: str) -> None:
    """Raise WorkspaceError if the graph of the workspace has no stage ``name``."""
    import yaml

    stages = list(yaml.safe_load(home.graph.read_text())["stages"])
    if name not in stages:
        raise WorkspaceError(f"no stage {name!r} in dvc.yaml; there are: {', '.join(stages)}")


def check_teacher(teacher: Path | None) -> None:
    """Raise WorkspaceError if the folder of the teacher is not there."""
    if teacher is not None and not teacher.expanduser().is_dir():
        raise WorkspaceError(f"--teacher: {teacher.expanduser().resolve()} is not a folder")


def check_images(images: list[Path]) -> None:
    """Raise WorkspaceError naming every one that is no file."""
    absent = [str(image) for image in images if not image.is_file()]
    if absent:
        raise WorkspaceError(f"not a file: {', '.join(absent)}")


def check_demo_folder(folder: Path) -> None:
    """Raise WorkspaceError if the demo may not clear ``folder``: it is in use, and not by an earlier demo."""
    folder = folder.expanduser().resolve()
    if folder.exists() and not (folder / ".regraft" / "demo").exists():
        if not folder.is_dir():
            raise WorkspaceError(f"{folder} is a file; name a folder for the demo")
        if any(folder.iterdir()):
            raise WorkspaceError(f"{folder} is not empty and not an earlier demo; name another folder")


def _glance_at(source: Path) -> None:
    # A folder that holds folders may be large and is left to the run; anything else is quickly read, or refused.
    if source.is_dir():
        with os.scandir(source) as entries:
            if any(entry.is_dir() for entry in entries):
                return
    from regraft.data.sources.sources import list_source

    list_source(source)
