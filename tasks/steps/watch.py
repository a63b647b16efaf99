"""Steps of the watch: judge the latest window, decide what to do, tell Prefect."""

import hashlib
import time
from dataclasses import asdict, dataclass
from typing import Any, Literal

from regraft.data.drift.alarm import Alarm
from regraft.data.drift.audit import Audit
from regraft.data.drift.reference import read_reference, widen_reference
from regraft.data.drift.slow_change import find_limit
from regraft.data.drift.verdict import DriftVerdict, judge_window, replace_nan
from regraft.models.report.watch_page import write_watch_page
from regraft.serving.bundle.format import open_bundle
from regraft.serving.log.reader import LoggedAnswers, read_window
from regraft.serving.registry.registry import Registry
from regraft.tasks.graph.prefect_step import inside_flow_run, step
from regraft.tasks.settings.params import Params, load_params
from regraft.tasks.steps.audit import audit_alarm, keep_harmless
from regraft.tasks.steps.collect import read_fresh_labels
from regraft.tasks.steps.label_queue import REPEATS, fill_queue
from regraft.tasks.steps.samples import read_unlearned
from regraft.tasks.steps.waiting_challengers import count_wanted, find_unjudged
from regraft.tasks.workspace.alarms import read_alarm, write_alarm
from regraft.tasks.workspace.judgements import Judgement, find_undecided
from regraft.tasks.workspace.windows import (
    JudgedWindow,
    measure_rate,
    read_states,
    read_windows,
    record_audit,
    record_window,
)
from regraft.tasks.workspace.workspace import Workspace, WorkspaceError

EVENT = "regraft.drift"

WIDER = (1, 3, REPEATS)
"""Times the usual images that a window may have, while neighbours that resemble each other say too little."""

RANDOM_SHARE = 0.5
"""Of the labels of a retraining: they judge, the others teach."""

Action = Literal["none", "audit", "label", "retrain", "judge"]
CALLS_A_FLOW = ("retrain", "judge")
"""Actions that the retrain flow answers: with a new version, or by judging the challenger that waits."""


@dataclass(frozen=True, slots=True)
class WatchReport:
    """One look at production: the verdict, the alarm if one is open, and what is to be done now.

    ``queue`` lists the answers whose labels are wanted now, each with its ``id`` and ``why``; ``audit`` is what random
    labels say of an alarm so far, and ``page`` is where the windows are drawn.
    """

    version: str
    verdict: dict[str, Any]
    alarm: dict[str, Any]
    action: Action
    reason: str
    labels: int
    labels_wanted: int
    queue: list[dict[str, str]]
    audit: dict[str, Any] | None = None
    page: str | None = None

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
    alarm, reference = read_alarm(home, champion), read_reference(folder / "reference.npz")
    known = widen_reference(reference, read_states(home, champion))
    # The same image sent again and again must not crowd the others out of the window.
    latest = read_window(home.predictions, version=champion, since=alarm.after, limit=REPEATS * config.window)
    labels = open_bundle(folder, verify=False).info.labels
    rate = measure_rate(home, champion, config.every_s)
    for times in WIDER:
        window = latest.drop_repeated(times * config.window)
        verdict = judge_window(reference, window, config, labels, known=known, windows_per_month=rate)
        if verdict.decision != "insufficient" or len(window) < times * config.window:
            break
    if verdict.decision != "insufficient":
        limit = find_limit(config.count_quiet(rate))
        _remember(home, champion, alarm, window, verdict, limit=limit, quiet_windows=config.quiet_windows)
    return verdict


def _remember(
    home: Workspace,
    champion: str,
    alarm: Alarm,
    window: LoggedAnswers,
    verdict: DriftVerdict,
    *,
    limit: float,
    quiet_windows: int,
) -> None:
    """Enter a judged window in the journal, and what it did to the alarm in its state."""
    now, span = time.time(), (float(window.at.min()), float(window.at.max()))
    after = alarm.advance(verdict, span, now, limit=limit, quiet_windows=quiet_windows)
    became = {(False, True): "opened", (True, False): "closed", (True, True): "open", (False, False): "quiet"}
    record_window(
        home,
        JudgedWindow(
            version=champion,
            at=now,
            begin=span[0],
            until=span[1],
            n=verdict.n,
            told=round(verdict.told, 1),
            decision=verdict.decision,
            kind=verdict.kind,
            p_value=verdict.p_value,
            alpha=verdict.alpha,
            slow=round(after.slow, 3),
            estimated_accuracy=replace_nan(verdict.estimated_accuracy),
            alarm=became[alarm.is_open, after.is_open],
            reason=after.reason if after.is_open != alarm.is_open else verdict.reason,
        ),
    )
    write_alarm(home, champion, after)


@step
def decide_action(home: Workspace, verdict: DriftVerdict) -> WatchReport:
    """Say what is wanted: an audit first; where it finds harm, labels, and with enough of them a retraining.

    A challenger that waits for its verdict comes before: its labels settle both.
    """
    champion, params = find_champion(home), load_params(home.params)
    alarm, audit = read_alarm(home, champion), None
    waiting = find_undecided(home, Registry(home.models_store).pointer().challenger, champion)
    if unjudged := find_unjudged(home):
        reason = f"{unjudged} was made and never judged: a run was interrupted. Judge it: regraft retrain"
        action, labels, wanted, queue = "judge", 0, 0, []
    elif alarm.is_open and waiting is not None:
        action, reason, labels, wanted, queue = _settle_challenger(home, champion, alarm, waiting, params)
    elif alarm.is_open and not alarm.harm and params.watch.audit_most:
        audit, alarm, (action, reason, labels, wanted, queue) = _settle_alarm(home, champion, alarm, params)
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
        audit=asdict(audit) if audit is not None else None,
        page=_draw_page(home, champion, alarm, params),
    )


def _draw_page(home: Workspace, champion: str, alarm: Alarm, params: Params) -> str | None:
    """Write the page of the champion's windows and return its path; None before the first of them."""
    windows = [asdict(window) for window in read_windows(home, champion)]
    if not windows:
        return None
    page = home.state / "watch.html"
    write_watch_page(page, champion, windows, alarm.to_json(), params.watch.false_alarms_per_month)
    return str(page)


Decided = tuple[Action, str, int, int, list[tuple[str, str]]]
"""Action, reason, labels that are there, labels wanted in all, queue of (prediction id, why)."""


def _settle_alarm(home: Workspace, champion: str, alarm: Alarm, params: Params) -> tuple[Audit, Alarm, Decided]:
    """Ask a few random answers of an open alarm whether they are right; close it where no harm is found."""
    audit = audit_alarm(home, champion, alarm, params.watch)
    if audit.outcome == "open":
        missing = audit.wanted - audit.labels
        queue = fill_queue(home, champion, alarm, missing, set(), params, random_share=1.0)
        told = f" ({audit.right} of {audit.labels} answers audited so far are right)" if audit.labels else ""
        reason = f"{alarm.reason} Did answers become worse? Label {missing} images, drawn at random{told}."
        return audit, alarm, ("audit", reason, audit.labels, audit.wanted, queue)
    if audit.outcome == "no harm":
        keep_harmless(home, champion, alarm)
    settled = alarm.settle(audit)
    became = "open" if settled.is_open else "closed"
    span = alarm.began_at or 0.0, alarm.judged_until or 0.0
    record_audit(home, champion, span, audit.labels, became, settled.reason, time.time())
    write_alarm(home, champion, settled)
    if settled.is_open:
        return audit, settled, _answer_alarm(home, champion, settled, params)
    return audit, settled, ("none", settled.reason, audit.labels, audit.labels, [])


def _answer_alarm(home: Workspace, champion: str, alarm: Alarm, params: Params) -> Decided:
    """Decide where harm was found and no challenger waits: collect labels, then call for a retraining."""
    rows = read_fresh_labels(home, since=alarm.opened_at)
    labelled = {row.image_sha256 for row in rows}
    wanted = params.retrain.min_labels
    action, reason = alarm.decide(len(labelled), wanted, time.time(), params.retrain.cool_down_s)
    queue = []
    if action == "label":
        missing = wanted - len(labelled)
        drawn = len({row.image_sha256 for row in rows if row.sampling == "random"})  # those of the audit among them
        share = max(0.0, RANDOM_SHARE * wanted - drawn) / missing
        queue = fill_queue(home, champion, alarm, missing, labelled, params, random_share=min(1.0, share))
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
    queue = fill_queue(home, champion, alarm, missing, set(drawn), params, random_share=1.0)
    return "label", reason, len(drawn), wanted, queue


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
