"""Learn from labelled production images: old and new together, judged against the champion."""

from pathlib import Path

from prefect import flow

from flows.train import make_version
from tasks.collect import RetrainReport, collect
from tasks.preflight import preflight
from tasks.turns import take_turn
from tasks.workspace import open_workspace


@flow(name="retrain", flow_run_name="retrain")
def retrain(workspace: Path, force: bool = False) -> RetrainReport:
    """Add the labelled production images to the sources and make a challenger, if there are enough new labels.

    Args:
        workspace: A folder made by ``regraft init``.
        force: Retrain with whatever labels there are.
    """
    home = open_workspace(workspace)
    with take_turn(home, "make"):
        preflight(home)
        batch = collect(home, force=force)
        if not batch.sufficient:
            return RetrainReport(batch, None)
        return RetrainReport(batch, make_version(home, "retrain"))
