"""Steps of the watch: judge the latest window, decide what to do, tell Prefect."""

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from typing import Any, Literal

from data.drift.alarm import Alarm
from data.drift.reference import read_reference
from data.drift.verdict import DriftVerdict, judge_window
from data.feedback import choose_for_labelling
from serving.bundle import open_bundle
from serving.durable import write_json
from serving.registry import Registry
from serving.windows import read_window
from tasks.collect import read_fresh_labels
from tasks.params import load_params
from tasks.step import inside_flow_run, step
from tasks.workspace import Workspace, WorkspaceError

EVENT = "regraft.drift"
REPEATS = 10
"""A window is looked for among this many times as many answers, because repeated images count once."""


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
    champion = find_champion(home)
    config = load_params(home.params).watch
    folder = home.models_store / "versions" / champion
    alarm = read_alarm(home, champion)
    # The same image sent again and again must not crowd the others out of the window.
    latest = read_window(home.predictions, version=champion, since=alarm.after, limit=REPEATS * config.window)
    window = latest.keep_distinct(config.window)
    labels = open_bundle(folder, verify=False).info.labels
    verdict = judge_window(read_reference(folder / "reference.npz"), window, config, labels)
    until = alarm.judged_until if verdict.decision == "insufficient" else float(latest.at.max())
    write_alarm(home, champion, alarm.advance(verdict, until, time.time()))
    return verdict


@step
def decide_action(home: Workspace, verdict: DriftVerdict) -> WatchReport:
    """Say what an open alarm asks for: labels first; with enough of them a retraining, unless one was just called."""
    champion, params = find_champion(home), load_params(home.params)
    alarm = read_alarm(home, champion)
    labelled = {row.image_sha256 for row in read_fresh_labels(home, since=alarm.opened_at)}
    wanted = params.retrain.min_labels
    action, reason = alarm.decide(len(labelled), wanted, time.time(), params.retrain.cool_down_s)
    queue = []
    if action == "label":
        window = read_window(home.predictions, version=champion, limit=REPEATS * params.watch.window)
        window = window.keep_distinct(max(params.watch.window, wanted))
        chosen = choose_for_labelling(window, wanted - len(labelled), seed=0, labelled=labelled)
        queue = [{"id": identity, "why": why} for identity, why in chosen]
    return WatchReport(
        version=champion,
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
    sent = emit_event(EVENT, resource=resource, payload={"version": report.version, "reason": report.reason})
    create_markdown_artifact(key="regraft-drift", markdown=f"**{report.action}**: {report.reason}")
    if report.action == "retrain" and sent is not None:
        # Only now: killed before this line, the next look calls again, and a second call finds the first one at work.
        write_alarm(home, report.version, read_alarm(home, report.version).with_retrain(time.time()))


def find_champion(home: Workspace) -> str:
    """Return the version that answers.

    Raises:
        WorkspaceError: If there is none to watch.
    """
    champion = Registry(home.models_store).pointer().champion
    if champion is None:
        raise WorkspaceError(f"{home.root} has no champion to watch; make one with: regraft train --data DIR")
    return champion


def read_alarm(home: Workspace, version: str) -> Alarm:
    """Return the state of the alarm of ``version``; each has its own, so that a rollback finds it again."""
    return Alarm(**_read_alarms(home).get(version, {}))


def write_alarm(home: Workspace, version: str, alarm: Alarm) -> None:
    """Keep the state of the alarm of ``version`` for the next look."""
    write_json(home.state / "alarms.json", _read_alarms(home) | {version: alarm.to_json()})


def _read_alarms(home: Workspace) -> dict[str, Any]:
    path = home.state / "alarms.json"
    return json.loads(path.read_text()) if path.exists() else {}
