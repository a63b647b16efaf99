"""Which stages a run has to do: DVC's answer, once the inputs are as the run will find them.

What is renewed only in the course of a run (the hash of the code, what is on offer, what other runs found) would make
stages run that were called done before it.
"""

from regraft.data.split.split import read_split
from regraft.tasks.graph.graph import list_stages, refresh_watched
from regraft.tasks.planning.offer import survey
from regraft.tasks.planning.run_history import refresh_known_runs
from regraft.tasks.workspace.dvc_repo import open_repository
from regraft.tasks.workspace.workspace import Workspace


def list_pending(home: Workspace) -> list[str]:
    """Return the stages from the first one on that DVC calls changed, in order; the sources must be taken in."""
    stages = list_stages(home)
    refresh_watched(home)
    survey(home)
    return stages[next((place for place, name in enumerate(stages) if _is_changed(home, name)), len(stages)) :]


def count_test_images(home: Workspace) -> int:
    """Return how many images the gate asks about on every run, for it is no stage."""
    return int((read_split(home.split)["part"] == "test").sum())


def _is_changed(home: Workspace, stage: str) -> bool:
    if stage == "select":  # all before it is current, so the data set is the one of this run
        refresh_known_runs(home)
    with open_repository(home.root) as repo:
        return bool(repo.status(targets=[stage]))
