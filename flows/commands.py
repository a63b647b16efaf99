"""What a person asks for by name: the command line and ``import regraft`` both call these, with the same errors.

Nothing is printed here. What happens in a run is in ``train.py``, ``watch.py`` and ``retrain.py``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.serving.registry.journal import Pointer, RegistryError
from regraft.tasks.workspace.workspace import Workspace

if TYPE_CHECKING:
    from regraft.data.sources.layout import Layout
    from regraft.tasks.graph.train_report import TrainReport
    from regraft.tasks.steps.collect import RetrainReport
    from regraft.tasks.steps.watch import WatchReport


def train(
    home: Workspace,
    data: Path | None = None,
    backbones: str | None = None,
    settings: dict[str, Any] | None = None,
    time_budget_s: float | None = None,
    layout: "Layout | None" = None,
    allow_lost: Sequence[str] = (),
) -> "TrainReport":
    """Train on a folder or manifest of labelled images and promote the result if the gate agrees.

    Args:
        home: The workspace.
        data: What becomes the origin. Default: the one given before.
        backbones: Folder or URL with backbones in the hub's folder format.
        settings: ``section.key`` of params.yaml and its value, from this run on.
        time_budget_s: Seconds within which the run should end.
        layout: How the folders of ``data`` are to be read, where they can be read in two ways.
        allow_lost: Classes that may be missing from now on.

    Raises:
        Exception: Of a class with ``exit_code``: 2 for what was given, 3 if a gate before the last said no.
    """
    from regraft.flows.driver import run_flow
    from regraft.models.backbones.hub import list_mirror
    from regraft.tasks.settings.params import preview_params

    mirror = {} if backbones is None else {"select.mirror": make_absolute(backbones)}
    settings = mirror | (settings or {})
    wanted = preview_params(home.params, settings).select  # every problem at once, before anything starts
    if wanted.mirror is not None and "select.mirror" in settings and wanted.candidates == "auto":
        list_mirror(wanted.mirror)
    return run_flow(
        home,
        "train",
        data=data.expanduser().resolve() if data else None,
        layout=layout,
        allow_lost=tuple(allow_lost),
        settings=settings,
        time_budget_s=time_budget_s,
    )


def make_absolute(backbones: str) -> str:
    """Return a web address as it is, and a folder's whole path."""
    return backbones if "://" in backbones else str(Path(backbones).expanduser().resolve())


def watch(home: Workspace) -> "WatchReport":
    """Judge the latest predictions against the champion's reference; say whether labels or a retraining are wanted."""
    from regraft.flows.driver import run_flow

    return run_flow(home, "watch")


def retrain(home: Workspace, force: bool = False) -> "RetrainReport":
    """Train on old and newly labelled images and judge the result; if forced, with whatever labels there are."""
    from regraft.flows.driver import run_flow

    return run_flow(home, "retrain", force=force)


def promote(home: Workspace, version: str, by: str, reason: str = "by hand") -> Pointer:
    """Make a registered version, or as many of its first digits as make it unique, the champion."""
    from regraft.serving.registry.registry import Registry

    registry = Registry(home.models_store)
    registry.promote(registry.resolve(version), by=by, reason=reason)
    return registry.pointer()


def rollback(home: Workspace, by: str, reason: str = "by hand") -> tuple[Pointer, Pointer]:
    """Give the answer back to the previous champion; return the pointer before and after.

    Raises:
        RegistryError: If the champion answers because of a rollback already, or there is no previous one.
    """
    from regraft.serving.registry.registry import Registry

    registry = Registry(home.models_store)
    before, last = registry.pointer(), registry.last_swap()
    if last is not None and last.action == "rollback":
        raise RegistryError(
            f"{before.champion} answers because of a rollback already; another one would bring {before.previous} back. "
            f"If you want that: regraft promote {before.previous} --workspace {home.root}. To go further back, name a "
            f"version of those that this lists: regraft models --workspace {home.root}"
        )
    return before, registry.rollback(by=by, reason=reason)
