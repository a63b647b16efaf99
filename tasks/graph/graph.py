"""Drive the stages of ``dvc.yaml`` in this process: skip what is unchanged, run the rest, record the outputs with DVC.

There is no cache of our own. DVC says whether a stage is current and DVC records what a stage made, so that
``dvc repro`` and a flow leave the same ``dvc.lock``.
"""

import functools
import importlib
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from regraft.tasks.graph.code_hash import refresh_code
from regraft.tasks.graph.prefect_step import inside_flow_run
from regraft.tasks.graph.progress import announce
from regraft.tasks.settings.inheritance import complete
from regraft.tasks.settings.terms import keep_terms
from regraft.tasks.settings.watched import watch_inherited
from regraft.tasks.workspace.dvc_repo import open_repository
from regraft.tasks.workspace.locks import hold_stage_lock
from regraft.tasks.workspace.workspace import Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StageRun:
    """What happened to one stage: it ran, or it was current and skipped."""

    name: str
    state: Literal["ran", "cached"]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able view."""
        return asdict(self)


class GraphError(RuntimeError):
    """A stage cannot run: its inputs are missing or the graph is broken."""

    exit_code = 2


def list_stages(home: Workspace) -> list[str]:
    """Return the stage names in the order in which they depend on each other."""
    return list(yaml.safe_load(home.graph.read_text())["stages"])


def refresh_watched(home: Workspace) -> None:
    """Bring what DVC watches beside the inputs up to date: the hash of each stage's code, and the keys it inherits."""
    refresh_code(home.code, list_stages(home))
    watch_inherited(home)


def stage(function: Callable[[Workspace], None]) -> Callable[[Workspace], StageRun]:
    """Make ``function`` a stage of the graph: called, it runs only if DVC says that something changed.

    Inside a Prefect flow run the same call is a Prefect task run, shown as *Cached* when it was skipped.
    """
    name = function.__name__

    @functools.wraps(function)
    def call(home: Workspace) -> StageRun:
        if inside_flow_run():
            return _as_prefect_task(name)(home.root, function)
        return drive_stage(home, name, function)

    call.run = function  # type: ignore[attr-defined]
    return call


def run_stage_alone(home: Workspace, name: str) -> None:
    """Run stage ``name`` without asking or telling DVC; this is what ``dvc repro`` calls.

    Raises:
        GraphError: If dvc.yaml has no such stage.
        WorkspaceBusy: If another process makes versions of the workspace.
    """
    if name not in list_stages(home):
        raise GraphError(f"no stage {name!r} in dvc.yaml; there are: {', '.join(list_stages(home))}")
    with hold_stage_lock(home), announce(name):
        watch_inherited(home)  # DVC has read the graph already; what is added counts from its next run on
        keep_terms(home)  # of a run that was cut short: DVC has read them as they stand, so they count
        getattr(importlib.import_module(f"regraft.tasks.stages.{name}"), name).run(home)


def drive_stage(home: Workspace, name: str, function: Callable[[Workspace], None]) -> StageRun:
    """Skip stage ``name`` if it is current; otherwise run it and record its outputs.

    Raises:
        GraphError: If the workspace's graph has no such stage, an input of the stage does not exist, or its parameters
            were edited while it ran.
    """
    if name not in list_stages(home):
        raise GraphError(
            f"{home.graph} has no stage {name}: the workspace is older than it. Move that file away and run: regraft "
            f"init {home.root}; it writes the graph of today, and what the other stages made still counts"
        )
    refresh_watched(home)
    started = time.perf_counter()
    with open_repository(home.root) as repo:
        _require_inputs(home, repo, name)
        current = not repo.status(targets=[name]) or _restore(repo, name)
        if not current:
            read = _read_section(home, name)
            with announce(name):
                function(home)
            _require_unedited(home, name, read)
            repo.commit(name, force=True)
    run = StageRun(name, "cached" if current else "ran", round(time.perf_counter() - started, 2))
    logger.info("%s %s seconds=%.1f", run.name, run.state, run.seconds)
    return run


def _require_inputs(home: Workspace, repo: Any, name: str) -> None:
    absent = []
    for found in repo.stage.collect(name):
        absent += [str(dep) for dep in found.deps if not getattr(dep, "params", None) and not dep.exists]
    if absent:
        needs_images = any(path.endswith("intake.json") for path in absent)
        hint = "give it images with: regraft train --data DIR" if needs_images else "run: regraft train"
        raise GraphError(f"stage {name} in {home.root} lacks {', '.join(sorted(set(absent)))}; {hint}")


def _restore(repo: Any, name: str) -> bool:
    """Bring back what the stage made when it last had these very inputs, from DVC's run cache; say whether it could.

    ``dvc repro`` does so too. After a run that was refused late, and put back, its finished stages cost nothing again.
    """
    from dvc.stage.cache import RunCacheNotFoundError

    try:
        with repo.lock:
            for found in repo.stage.collect(name):
                repo.stage_cache.restore(found)
    except RunCacheNotFoundError:
        return False
    repo.commit(name, force=True)
    return True


def _read_section(home: Workspace, name: str) -> Any:
    return complete(yaml.safe_load(home.params.read_text()) or {}).get(name)


def _require_unedited(home: Workspace, name: str, read: Any) -> None:
    """Stop before DVC writes parameters down that the stage has not seen: it reads the file when a stage has ended."""
    if _read_section(home, name) != read:
        raise GraphError(
            f"section {name} of {home.params} was edited while the stage ran, so what it made is not recorded; "
            "train again, and the edited parameters count"
        )


def _as_prefect_task(name: str) -> Callable[[Path, Callable[[Workspace], None]], StageRun]:
    from prefect import task
    from prefect.cache_policies import NO_CACHE
    from prefect.states import Completed

    # DVC decides what is current: a second cache would only disagree with it.
    @task(name=name, task_run_name=name, cache_policy=NO_CACHE)
    def drive(root: Path, function: Callable[[Workspace], None]) -> Any:
        run = drive_stage(Workspace(root), name, function)
        return Completed(name="Cached", data=run) if run.state == "cached" else run

    return drive
