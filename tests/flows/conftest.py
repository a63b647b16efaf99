"""One small workspace, trained once through the real command line, that the tests of the chain look at or copy."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from regraft.data.synthetic.steel import SteelLine, render_folder
from regraft.tasks.settings.params import set_params
from regraft.tasks.workspace.workspace import Workspace, init_workspace

QUICK = {
    "select.max_images": 48,
    "select.adapt_images": 0,
    "finetune.budget_s": 2,
    "evaluate.bootstrap": 200,
    "certify.draws": 2,
    "certify.max_images": 24,
    "certify.max_test": 18,
    "certify.sizes": [1.0],
    "certify.trial_s": 0.1,
    "certify.max_epochs": 1,
    "certify.size_px": 32,
    "watch.window": 120,
    "watch.min_window": 50,
    "retrain.min_labels": 60,
}
PER_CLASS = 24


@dataclass(frozen=True)
class Trained:
    """A workspace with a champion, the images it came from and what the command printed."""

    home: Workspace
    images: Path
    answer: dict[str, Any]


def regraft(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the real console script, away from the repository."""
    command = [str(Path(sys.executable).with_name("regraft")), *arguments]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=clean | (environment or {}),
        cwd=Path(command[0]).parent,
        check=False,
    )


@pytest.fixture(scope="session")
def run_regraft() -> Callable[..., subprocess.CompletedProcess[str]]:
    return regraft


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("line") / "images"
    render_folder(folder, SteelLine.default(), PER_CLASS, seed=0)
    return folder


@pytest.fixture(scope="session")
def make_workspace(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Workspace]:
    def make(name: str) -> Workspace:
        home = init_workspace(tmp_path_factory.mktemp(name) / "w")
        set_params(home.params, QUICK)
        return home

    return make


@pytest.fixture(scope="session")
def trained(make_workspace: Callable[[str], Workspace], images: Path) -> Iterator[Trained]:
    """A trained workspace that tests only read; the session fails at its end if one of them changed it."""
    home = make_workspace("trained")
    result = regraft("train", "--workspace", str(home.root), "--data", str(images), "--json")
    assert result.returncode == 0, result.stderr[-3000:]
    before = list_contents(home)
    yield Trained(home, images, json.loads(result.stdout))
    changed = before ^ list_contents(home)
    assert not changed, f"a test changed the shared workspace; let it take a copy: {sorted(changed)[:9]}"


def list_contents(home: Workspace) -> set[tuple[str, int]]:
    """Return name and size in bytes of every file of the traffic, the production images and the model store."""
    folders = (home.predictions, home.images, home.models_store)
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {(path.relative_to(home.root).as_posix(), path.stat().st_size) for path in files}


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> Trained:
    """The trained workspace, copied, for a test that changes it."""
    root = tmp_path / "w"
    shutil.copytree(trained.home.root, root, symlinks=True)
    return Trained(Workspace(root), trained.images, trained.answer)
