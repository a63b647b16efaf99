"""Train, watch, retrain, promote and roll back from Python; nothing is printed, errors are those of the command line.

An error's class says in ``exit_code`` how the command would end: 1 it could not be done, 2 bad input or usage, 3 a gate
said no, 4 another run holds the lock.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.flows import commands
from regraft.serving.registry.journal import Pointer
from regraft.tasks.workspace.workspace import Workspace, WorkspaceError, init_workspace, open_workspace

if TYPE_CHECKING:
    from regraft.tasks.graph.train_report import TrainReport
    from regraft.tasks.steps.watch import WatchReport

BY = "python"


@dataclass(frozen=True, slots=True)
class Run:
    """What a training or retraining came to; in a notebook it shows itself as a table and the report with its plots.

    Attributes:
        workspace: The folder of the workspace.
        details: Everything the run answers, as ``regraft train --json`` prints it.
    """

    workspace: Path
    details: Mapping[str, Any]

    @property
    def version(self) -> str | None:
        """The version made or judged; None where there were too few labels to make one."""
        return self.details.get("version")

    @property
    def decision(self) -> str:
        """``promoted``, or why not: ``kept``, ``undecided``, ``not enough labels``."""
        return self.details["decision"]

    @property
    def promoted(self) -> bool:
        """Whether the version answers from now on."""
        return self.decision == "promoted"

    @property
    def reason(self) -> str:
        """What the decision rests on, in a sentence."""
        batch = self.details.get("batch") or {}
        return self.details.get("reason") or batch.get("reason", "")

    @property
    def metrics(self) -> dict[str, Any]:
        """Scores on the test part in 0 to 1, each with ``<score>_low`` and ``<score>_high`` (95 %), and ``n``."""
        return dict(self.details.get("metrics", {}).get("test", {}))

    @property
    def report(self) -> Path | None:
        """The self-contained page about the version."""
        return Path(self.details["report"]) if self.details.get("report") else None

    def _repr_html_(self) -> str:
        rows = {
            "version": f"{self.version} ({self.decision})",
            "why": self.reason,
            "backbone": self.details.get("backbone"),
            "test images": self.metrics.get("n"),
        }
        for name in ("accuracy", "balanced_accuracy"):
            if name in self.metrics:
                low, high = self.metrics[f"{name}_low"], self.metrics[f"{name}_high"]
                rows[f"test {name.replace('_', ' ')}"] = f"{self.metrics[name]:.3f} [{low:.3f}, {high:.3f}]"
        rows["certificate"] = self.details.get("certificate", {}).get("reason")
        rows["report"] = self.report
        table = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(str(value))}</td></tr>"
            for name, value in rows.items()
            if value is not None
        )
        return f"<table>{table}</table>{self._embed_report()}"

    def _embed_report(self) -> str:
        # The page brings its plots and its style along, and neither may touch the notebook's.
        if self.report is None or not self.report.is_file():
            return ""
        page = html.escape(self.report.read_text(), quote=True)
        return f'<iframe sandbox srcdoc="{page}" style="width:100%;height:640px;border:1px solid #ccc"></iframe>'


def train(
    data: str | Path | None = None,
    workspace: str | Path = ".",
    *,
    backbones: str | Path | None = None,
    time_budget: str | None = None,
    settings: Mapping[str, Any] | None = None,
    layout: Mapping[str, Any] | None = None,
    allow_lost: Sequence[str] = (),
) -> Run:
    """Train on labelled images and promote the result if the gate agrees.

    Args:
        data: Folder per class, or a CSV or Parquet manifest. Default: the one given before.
        workspace: A folder; made a workspace if it is absent or empty.
        backbones: Folder or URL with backbones in the hub's folder format.
        time_budget: End by then: ``90s``, ``10m``, ``1h``.
        settings: ``section.key`` of params.yaml and its value, from this run on.
        layout: How folders are to be read where there are two ways: ``classes_at``, ``groups_at`` (levels) and
            ``similar_labels`` (``merge`` or ``apart``).
        allow_lost: Classes that may be missing from now on, by name.

    Returns:
        The run; whether the version answers now is ``run.promoted``.

    Raises:
        Exception: Whatever the command would end with, see the module; the message says what to do.
    """
    from regraft.data.sources.layout import Layout
    from regraft.tasks.settings.duration import parse_duration

    wrong = set(layout or {}) - {"classes_at", "groups_at", "similar_labels"}
    if wrong:
        raise WorkspaceError(
            f"layout has no {', '.join(sorted(wrong))}; it has classes_at, groups_at and similar_labels"
        )
    home = _open(workspace)
    report = commands.train(
        home,
        None if data is None else Path(data),
        None if backbones is None else str(backbones),
        dict(settings or {}),
        None if time_budget is None else parse_duration(time_budget),
        Layout(**(layout or {})).check(),
        allow_lost,
    )
    return _wrap(home, report)


def watch(workspace: str | Path = ".") -> "WatchReport":
    """Judge the latest predictions; the report says ``verdict``, ``action`` and ``reason``."""
    return commands.watch(open_workspace(Path(workspace)))


def retrain(workspace: str | Path = ".", *, force: bool = False) -> Run:
    """Learn from labels that came back, old and new images together; ``force``: with whatever labels there are."""
    home = open_workspace(Path(workspace))
    return Run(home.root, commands.retrain(home, force).to_json())


def promote(version: str, workspace: str | Path = ".", *, reason: str = "by hand") -> Pointer:
    """Make a registered version (its first digits suffice) the champion, whatever the gate said."""
    return commands.promote(open_workspace(Path(workspace)), version, BY, reason)


def rollback(workspace: str | Path = ".", *, reason: str = "by hand") -> Pointer:
    """Give the answer back to the previous champion, once."""
    return commands.rollback(open_workspace(Path(workspace)), BY, reason)[1]


def _open(workspace: str | Path) -> Workspace:
    folder = Path(workspace).expanduser()
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return init_workspace(folder)
    return open_workspace(folder)


def _wrap(home: Workspace, report: "TrainReport") -> Run:
    return Run(home.root, report.to_json())
