"""One small workspace, trained once through the real command line, that the tests of the chain look at or copy."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

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
BIN = Path(sys.executable).parent
STRACE = shutil.which("strace")


@dataclass(frozen=True)
class Trained:
    """A workspace with a champion, the images it came from, what the command printed and what it connected to.

    Attributes:
        connects: What strace says of every ``connect`` of the training; empty where there is no strace.
    """

    home: Workspace
    images: Path
    answer: dict[str, Any]
    connects: str


class Spawner:
    """Runs ``regraft`` as a process of its own that need not import what every command imports: ``spawner.py``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None

    def run(self, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run the command line away from the repository and return its code and what it printed."""
        command = [str(BIN / "regraft"), *arguments]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        clean |= environment or {}
        said = {name: str(self.folder / name) for name in ("stdout", "stderr")}
        request = {"command": command, "environment": clean, "folder": str(BIN), **said}
        if self.process is None:
            program = [sys.executable, str(Path(__file__).with_name("spawner.py"))]
            self.process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=BIN)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        return subprocess.CompletedProcess(command, code, *(Path(said[name]).read_text() for name in said))

    def close(self) -> None:
        """End the process that forks; the commands have ended."""
        if self.process is not None:
            self.process.communicate()


@pytest.fixture(scope="session")
def run_regraft(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    spawner = Spawner(tmp_path_factory.mktemp("spawner"))
    yield spawner.run
    spawner.close()


@pytest.fixture(scope="session")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the test processes of one session share; what lies in it is made under a lock."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "together"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def images(together: Path) -> Path:
    folder = together / "images"
    with FileLock(together / "images.lock"):
        if not folder.exists():
            render_folder(folder, SteelLine.default(), PER_CLASS, seed=0)
    return folder


@pytest.fixture(scope="session")
def make_workspace(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Workspace]:
    def make(name: str) -> Workspace:
        home = init_workspace(tmp_path_factory.mktemp(name) / "w")
        set_params(home.params, QUICK)
        return home

    return make


def train_once(folder: Path, images: Path) -> None:
    """Fill ``folder`` (``w``, ``answer.json``, ``connects``) by the real console script, traced if possible."""
    home = init_workspace(folder / "w")
    set_params(home.params, QUICK)
    connects = folder / "connects"
    connects.touch()
    trace = [STRACE, "-f", "--seccomp-bpf", "-e", "trace=connect", "-o", str(connects)] if STRACE else []
    command = [*trace, str(BIN / "regraft"), "train", "--workspace", str(home.root), "--data", str(images), "--json"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    result = subprocess.run(command, capture_output=True, text=True, env=clean, cwd=BIN, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    (folder / "answer.json").write_text(result.stdout)


@pytest.fixture(scope="session")
def trained(together: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """A trained workspace that tests only read; the session fails at its end if one of them changed it."""
    with FileLock(together / "trained.lock"):
        if not (together / "answer.json").exists():
            shutil.rmtree(together / "w", ignore_errors=True)
            train_once(together, images)
    # Of each process its own copy: a command that only looks may still take the lock of the workspace.
    home = Workspace(tmp_path_factory.mktemp("trained") / "w")
    shutil.copytree(together / "w", home.root, symlinks=True)
    before = list_contents(home)
    yield Trained(home, images, json.loads((together / "answer.json").read_text()), (together / "connects").read_text())
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
    return replace(trained, home=Workspace(root))
