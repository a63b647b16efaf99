"""Compare the latest traffic with what the champion was accepted on, and say what to do about it."""

from pathlib import Path

from prefect import flow

from regraft.flows.server.telling import tell_outcome
from regraft.tasks.steps.watch import WatchReport, announce_drift, decide_action, judge_traffic
from regraft.tasks.workspace.locks import hold_lock
from regraft.tasks.workspace.workspace import open_workspace


@flow(name="watch", flow_run_name="watch")
@tell_outcome
def watch(workspace: Path) -> WatchReport:
    """Judge the latest window; on drift ask for labels, and once there are enough call for a retraining."""
    home = open_workspace(workspace)
    with hold_lock(home, "watch"):
        verdict = judge_traffic(home)
        report = decide_action(home, verdict)
        if report.action != "none":
            announce_drift(home, report)
        return report
