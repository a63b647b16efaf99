"""Where everything of one learning problem lies; the only module that knows the paths.

A workspace holds ``params.yaml``, ``dvc.yaml``, ``data/store/`` and ``models/store/``; runtime state that is never
versioned lies in ``.regraft/``.
"""

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from regraft.serving.files.durable import write_bytes
from regraft.tasks.workspace.dvc_repo import open_repository, quiet_dvc
from regraft.tasks.workspace.pins import pin_settings

FROZEN_HEADER = b"sha256,part\n"


class WorkspaceError(ValueError):
    """The folder is not a workspace, or lacks something a command needs."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Workspace:
    """Paths of one workspace; ``root`` is absolute."""

    root: Path

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def code(self) -> Path:
        return self.root / "code.yaml"

    @property
    def graph(self) -> Path:
        """Which stage reads and writes what."""
        return self.root / "dvc.yaml"

    @property
    def lock(self) -> Path:
        """What every stage read and wrote when it last ran."""
        return self.root / "dvc.lock"

    @property
    def backbones_lock(self) -> Path:
        return self.root / "backbones.lock.json"

    @property
    def data_store(self) -> Path:
        return self.root / "data" / "store"

    @property
    def intake(self) -> Path:
        return self.data_store / "intake.json"

    @property
    def frozen(self) -> Path:
        return self.data_store / "frozen.csv"

    @property
    def feedback(self) -> Path:
        """Labelled production images, one immutable folder per batch."""
        return self.data_store / "feedback"

    @property
    def dataset(self) -> Path:
        return self.data_store / "dataset"

    @property
    def validation(self) -> Path:
        return self.data_store / "validation"

    @property
    def split(self) -> Path:
        return self.data_store / "split.parquet"

    @property
    def known_runs(self) -> Path:
        """What earlier runs on other data found, as ``select`` may use it."""
        return self.models_store / "known_runs.jsonl"

    @property
    def track_record(self) -> Path:
        """What every finished run of this workspace found."""
        return self.models_store / "track_record.jsonl"

    @property
    def models_store(self) -> Path:
        return self.root / "models" / "store"

    @property
    def backbones(self) -> Path:
        return self.models_store / "backbones"

    @property
    def selection(self) -> Path:
        return self.models_store / "selection"

    @property
    def checkpoint(self) -> Path:
        return self.models_store / "checkpoint"

    @property
    def evaluation(self) -> Path:
        return self.models_store / "evaluation"

    @property
    def certificate(self) -> Path:
        """The verdict on whether transfer helped."""
        return self.models_store / "certificate"

    @property
    def bundle(self) -> Path:
        return self.models_store / "bundle"

    @property
    def lineage(self) -> Path:
        """For each version the dvc.lock and parameters it was made with."""
        return self.models_store / "lineage"

    @property
    def judgements(self) -> Path:
        """Every verdict of the gate, one line each."""
        return self.models_store / "judgements.jsonl"

    @property
    def runs(self) -> Path:
        """The ledger of finished runs."""
        return self.state / "runs.jsonl"

    @property
    def state(self) -> Path:
        return self.root / ".regraft"

    @property
    def cache(self) -> Path:
        return self.state / "cache"

    @property
    def features(self) -> Path:
        """Features of images under backbones; safe to delete."""
        return self.cache / "features"

    @property
    def known_files(self) -> Path:
        """What each file of the sources held when it was last read; safe to delete."""
        return self.cache / "files.parquet"

    @property
    def latencies(self) -> Path:
        """What was measured of each backbone on this machine."""
        return self.state / "latency.json"

    @property
    def training(self) -> Path:
        """Resume state of fine-tuning."""
        return self.state / "training"

    @property
    def predictions(self) -> Path:
        return self.state / "predictions.db"

    @property
    def images(self) -> Path:
        """Served images that were kept for labelling."""
        return self.state / "images"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def remote(self) -> Path:
        """The default DVC remote."""
        return self.state / "remote"


def init_workspace(root: Path, *, remote: str | None = None) -> Workspace:
    """Make ``root`` a workspace: parameters, the graph, a DVC repository and its remote. Existing files are kept.

    Args:
        root: Folder to use; made if absent.
        remote: URL or folder of the DVC remote. Default: a folder inside the workspace.

    Raises:
        WorkspaceError: If ``root`` is a file.
    """
    root = root.expanduser().resolve()
    if root.exists() and not root.is_dir():
        raise WorkspaceError(f"{root} is a file; name a folder for the workspace")
    home = Workspace(root)
    for folder in (home.data_store, home.models_store, home.state):
        folder.mkdir(parents=True, exist_ok=True)
    for name in ("params.yaml", "dvc.yaml"):
        if not (root / name).exists():
            write_bytes(root / name, resources.files(__package__).joinpath("blueprint", name).read_bytes())
    _write_absent(home)
    _init_dvc(home, remote)
    return home


def open_workspace(root: Path) -> Workspace:
    """Return the workspace at ``root``.

    Raises:
        WorkspaceError: If ``root`` has no params.yaml or dvc.yaml, naming what lacks and what to do.
    """
    root = root.expanduser().resolve()
    absent = [name for name in ("params.yaml", "dvc.yaml", ".dvc") if not (root / name).exists()]
    if absent:
        raise WorkspaceError(
            f"{root} is not a workspace: no {', '.join(absent)}. Make it one with: regraft init {root}"
        )
    home = Workspace(root)
    _write_absent(home)  # a fresh clone of a workspace in git
    return home


def _write_absent(home: Workspace) -> None:
    """Write the inputs of the graph that begin empty, where they are absent."""
    for path, content in ((home.frozen, FROZEN_HEADER), (home.known_runs, b"")):
        if not path.exists():
            write_bytes(path, content)


def _init_dvc(home: Workspace, remote: str | None) -> None:
    if not (home.root / ".dvc").exists():
        from dvc.repo import Repo

        quiet_dvc()
        Repo.init(str(home.root), no_scm=not (home.root / ".git").exists()).close()
    pin_settings(home.root)
    url = remote if remote is None or "://" in remote else str(Path(remote).expanduser().resolve())
    with open_repository(home.root) as repo:
        if url is None and "store" in repo.config.load_one("repo")["remote"]:
            return
        with repo.config.edit() as config:
            # DVC keeps a relative path relative to .dvc/, so that the workspace can be moved.
            # Without verify a corrupted object is pulled as if it were sound.
            config["remote"]["store"] = {"url": url or os.path.relpath(home.remote), "verify": True}
