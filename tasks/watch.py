"""Steps of the watch: judge the latest window, decide what to do, tell Prefect."""

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from typing import Any, Literal

from data.drift.alarm import Alarm, advance_alarm
from data.drift.reference import read_reference
from data.drift.verdict import DriftVerdict, judge_window
from data.feedback import choose_for_labelling
from serving.bundle import open_bundle
from serving.durable import write_json
from serving.registry import Registry
from serving.windows import read_feedback, read_window
from tasks.params import load_params
from tasks.step import inside_flow_run, step
from tasks.workspace import Workspace, WorkspaceError

EVENT = "regraft.drift"


@dataclass(frozen=True, slots=True)
class WatchReport:
    """One look at production: the verdict, the alarm if one is open, and what is to be done now."""

    version: str
    verdict: dict[str, Any]
    alarm: dict[str, Any]
    action: Literal["none", "label", "retrain"]
    reason: str
    labels: int
    labels_wanted: int
    queue: list[dict[str, str]]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able view."""
        return asdict(self)


def resource_of(home: Workspace) -> str:
    """Return the name by which Prefect's events know this workspace."""
    return f"regraft.workspace.{hashlib.sha256(str(home.root).encode()).hexdigest()[:12]}"


@step
def judge_traffic(home: Workspace) -> DriftVerdict:
    """Compare the predictions that no window has covered yet with the champion's reference."""
    champion = Registry(home.models_store).pointer().champion
    if champion is None:
        raise WorkspaceError(f"{home.root} has no champion to watch; make one with: regraft train --data DIR")
    config = load_params(home.params).watch
    reference = read_reference(home.models_store / "versions" / champion / "reference.npz")
    alarm = read_alarm(home)
    since = alarm.after if alarm.version == champion else None
    window = read_window(home.predictions, version=champion, since=since, limit=config.window)
    labels = open_bundle(home.models_store / "versions" / champion, verify=False).info.labels
    verdict = judge_window(reference, window, config, labels)
    until = alarm.judged_until if verdict.decision == "insufficient" else float(window.at.max())
    write_alarm(home, advance_alarm(alarm, champion, verdict, until, time.time()))
    return verdict


@step
def decide_action(home: Workspace, verdict: DriftVerdict) -> WatchReport:
    """Say what an open alarm asks for: labels first; with enough of them a retraining, unless one was just called."""
    params = load_params(home.params)
    alarm = read_alarm(home)
    labelled = {row.image_sha256 for row in read_feedback(home.predictions, version=alarm.version)}
    wanted = params.retrain.min_labels
    action, reason = alarm.decide(len(labelled), wanted, time.time(), params.retrain.cool_down_s)
    if action == "retrain":
        write_alarm(home, alarm.with_retrain(time.time()))
    queue = []
    if action == "label":
        window = read_window(home.predictions, version=alarm.version, limit=max(params.watch.window, wanted))
        chosen = choose_for_labelling(window, wanted - len(labelled), seed=0, labelled=labelled)
        queue = [{"id": identity, "why": why} for identity, why in chosen]
        write_json(home.state / "labels_wanted.json", queue)
    return WatchReport(
        version=alarm.version,
        verdict=verdict.to_json(),
        alarm=alarm.to_json(),
        action=action,
        reason=reason,
        labels=len(labelled),
        labels_wanted=wanted,
        queue=queue,
    )


@step
def announce_drift(home: Workspace, report: WatchReport) -> None:
    """Emit the drift event; its action decides whether a retraining answers it. Without a server nothing is sent."""
    if not inside_flow_run():
        return
    from prefect.artifacts import create_markdown_artifact
    from prefect.events import emit_event

    resource = {"prefect.resource.id": resource_of(home), "regraft.action": report.action}
    emit_event(EVENT, resource=resource, payload={"version": report.version, "reason": report.reason})
    create_markdown_artifact(key="regraft-drift", markdown=f"**{report.action}**: {report.reason}")


def read_alarm(home: Workspace) -> Alarm:
    """Return the state of the alarm; a workspace that was never watched has none open."""
    path = home.state / "alarm.json"
    return Alarm(**json.loads(path.read_text())) if path.exists() else Alarm()


def write_alarm(home: Workspace, alarm: Alarm) -> None:
    """Keep the state of the alarm for the next look."""
    write_json(home.state / "alarm.json", alarm.to_json())
