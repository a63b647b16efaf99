"""Steps of the watch: judge the latest window, decide what to do, tell Prefect."""

import hashlib
import time
from dataclasses import asdict, dataclass
from typing import Any, Literal

from regraft.data.drift.alarm import Alarm
from regraft.data.drift.reference import read_reference
from regraft.data.drift.verdict import DriftVerdict, judge_window
from regraft.data.labelling.feedback import choose_for_labelling, read_image
from regraft.serving.bundle.format import open_bundle
from regraft.serving.log.reader import read_window
from regraft.serving.log.requests import LabelRequest, ask_for_labels, read_requests
from regraft.serving.registry.registry import Registry
from regraft.tasks.graph.prefect_step import inside_flow_run, step
from regraft.tasks.settings.params import Params, load_params
from regraft.tasks.steps.collect import read_fresh_labels
from regraft.tasks.steps.samples import read_unlearned
from regraft.tasks.steps.waiting_challengers import count_wanted, find_unjudged
from regraft.tasks.workspace.alarms import read_alarm, write_alarm
from regraft.tasks.workspace.judgements import Judgement, find_undecided
from regraft.tasks.workspace.workspace import Workspace, WorkspaceError

EVENT = "regraft.drift"
REPEATS = 10
"""A window is looked for among this many times as many answers, because repeated images count once."""

Action = Literal["none", "label", "retrain", "judge"]
CALLS_A_FLOW = ("retrain", "judge")
"""Actions that the retrain flow answers: with a new version, or by judging the challenger that waits."""


@dataclass(frozen=True, slots=True)
class WatchReport:
    """One look at production: the verdict, the alarm if one is open, and what is to be done now.

    ``queue`` lists the answers whose labels are wanted now, each with its ``id`` and ``why``.
    """

    version: str
    verdict: dict[str, Any]
    alarm: dict[str, Any]
    action: Action
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
    window = latest.drop_repeated(config.window)
    labels = open_bundle(folder, verify=False).info.labels
    verdict = judge_window(read_reference(folder / "reference.npz"), window, config, labels)
    until = alarm.judged_until if verdict.decision == "insufficient" else float(latest.at.max())
    write_alarm(home, champion, alarm.advance(verdict, until, time.time()))
    return verdict


@step
def decide_action(home: Workspace, verdict: DriftVerdict) -> WatchReport:
    """Say what is wanted: labels first; with enough of them a retraining, or the judging of a challenger that waits."""
    champion, params = find_champion(home), load_params(home.params)
    alarm = read_alarm(home, champion)
    waiting = find_undecided(home, Registry(home.models_store).pointer().challenger, champion)
    if unjudged := find_unjudged(home):
        reason = f"{unjudged} was made and never judged: a run was interrupted. Judge it: regraft retrain"
        action, labels, wanted, queue = "judge", 0, 0, []
    elif alarm.is_open and waiting is not None:
        action, reason, labels, wanted, queue = _settle_challenger(home, champion, alarm, waiting, params)
    else:
        action, reason, labels, wanted, queue = _answer_alarm(home, champion, alarm, params)
    return WatchReport(
        version=champion,
        verdict=verdict.to_json(),
        alarm=alarm.to_json(),
        action=action,
        reason=reason,
        labels=labels,
        labels_wanted=wanted,
        queue=[{"id": identity, "why": why} for identity, why in queue],
    )


Decided = tuple[Action, str, int, int, list[tuple[str, str]]]
"""Action, reason, labels that are there, labels wanted in all, queue of (prediction id, why)."""


def _answer_alarm(home: Workspace, champion: str, alarm: Alarm, params: Params) -> Decided:
    """Decide while no challenger waits: collect labels, then call for a retraining."""
    labelled = {row.image_sha256 for row in read_fresh_labels(home, since=alarm.opened_at)}
    wanted = params.retrain.min_labels
    action, reason = alarm.decide(len(labelled), wanted, time.time(), params.retrain.cool_down_s)
    queue = []
    if action == "label":
        queue = _fill_queue(home, champion, alarm, wanted - len(labelled), labelled, params, random_share=0.5)
    return action, reason, len(labelled), wanted, queue


def _settle_challenger(home: Workspace, champion: str, alarm: Alarm, waiting: Judgement, params: Params) -> Decided:
    """Decide while an undecided challenger waits: random labels only, then it is judged again without a training."""
    drawn = read_unlearned(home, champion)
    wanted = count_wanted(waiting, params.retrain)
    name = waiting.version[:12]
    if len(drawn) >= wanted:
        return "judge", f"{len(drawn)} random labels are enough to judge {name} again", len(drawn), wanted, []
    missing = wanted - len(drawn)
    reason = f"{name} waits for a verdict: {waiting.reason}. Label {missing} more images, drawn at random."
    queue = _fill_queue(home, champion, alarm, missing, set(drawn), params, random_share=1.0)
    return "label", reason, len(drawn), wanted, queue


def _fill_queue(
    home: Workspace,
    champion: str,
    alarm: Alarm,
    count: int,
    labelled: set[str],
    params: Params,
    *,
    random_share: float,
) -> list[tuple[str, str]]:
    """Return ``count`` answers to label: those asked for and not labelled yet first, then new ones, recorded as asked.

    What was drawn at random once stays wanted: a sample that is drawn anew at each look is the sample of those who
    answer quickly.
    """
    asked = read_requests(home.predictions, champion, since=alarm.opened_at)
    waiting = [one for one in asked if not one.labelled and (random_share < 1 or one.why == "random")]
    kept = [one for one in waiting if read_image(home.images, one.image_sha256) is not None]
    queue: list[tuple[str, str]] = [(one.id, one.why) for one in kept[:count]]
    if len(queue) < count:
        limit = max(params.watch.window, params.retrain.min_labels, count)
        window = read_window(home.predictions, version=champion, limit=REPEATS * limit)
        fresh = choose_for_labelling(
            window.drop_repeated(limit),
            count - len(queue),
            seed=len(asked),
            labelled=labelled | {one.image_sha256 for one in asked},
            random_share=random_share,
            drawn_after=_last_answer(asked),
        )
        ask_for_labels(home.predictions, fresh)
        queue += fresh
    return queue


def _last_answer(asked: list[LabelRequest]) -> float | None:
    return max((one.answered_at for one in asked), default=None)


@step
def announce_drift(home: Workspace, report: WatchReport) -> None:
    """Emit the drift event; its action decides whether a flow answers it. Without a server nothing is sent."""
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
