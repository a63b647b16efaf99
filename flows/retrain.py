"""Learn from labelled production images: old and new together, judged against the champion."""

from pathlib import Path

from prefect import flow

from regraft.flows.server.telling import tell_outcome
from regraft.flows.train import judge_version, make_version
from regraft.tasks.planning.preflight import preflight
from regraft.tasks.settings.terms import Terms, hold_terms
from regraft.tasks.steps.collect import RetrainReport, collect
from regraft.tasks.steps.waiting_challengers import find_unsettled
from regraft.tasks.workspace.locks import hold_lock
from regraft.tasks.workspace.workspace import open_workspace


@flow(name="retrain", flow_run_name="retrain")
@tell_outcome
def retrain(workspace: Path, force: bool = False) -> RetrainReport:
    """Judge the challenger that waits for a verdict, or make a new one from the labels that have come.

    Args:
        workspace: A folder made by ``regraft init``.
        force: Retrain with whatever labels there are.
    """
    home = open_workspace(workspace)
    with hold_lock(home, "make"):
        waiting = find_unsettled(home)
        if waiting is not None:
            return RetrainReport(None, judge_version(home, waiting, "retrain"))
        preflight(home)
        with hold_terms(home, Terms("retrain")):
            batch = collect(home, force=force)
            return RetrainReport(batch, make_version(home, "retrain") if batch.sufficient else None)
