"""Follow a flow run that a Prefect server makes by itself, out of an event, until it has ended.

Nothing here waits for a number of seconds: as long as the server, the runner and the run live, it goes on; it gives up
as soon as one of them is known to have ended, or the run is known never to come, and says which.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from regraft.flows.server.server_api import FlowRun, ServerApi

PAUSE_S = 0.5
"""Between two looks at the server."""
SILENCE_S = 15.0
"""A run without news for this long is reported with the latest line of its log."""
LOG_LINES = 12
LOOKS = 20


class FollowError(RuntimeError):
    """The run that is waited for cannot come, or what runs it has ended; the message says which and where to look."""

    exit_code = 1


class FlowRunFailed(RuntimeError):  # noqa: N818 - it is what happened to the run
    """The run that was followed failed, crashed or was cancelled; the message has the end of its log."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class FollowedProcess:
    """A process without which waiting is in vain, and the file that it writes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


@dataclass(frozen=True, slots=True)
class Cause:
    """The event that is to make the run; see ``regraft.tasks.steps.watch``."""

    event: str
    resource: str
    """Its ``prefect.resource.id``."""


Tell = Callable[[str], None]


def now() -> datetime:
    """Return the moment after which a run is looked for; take it before the event is sent."""
    return datetime.now(UTC)


def wait_deployed(
    api: str, deployment: str, parts: Sequence[FollowedProcess], *, tell: Tell, by_event: bool = True
) -> None:
    """Return once the runner has registered ``deployment`` and, with ``by_event``, the automation that runs it.

    An event that is sent before is lost: no run comes of it.

    Raises:
        FollowError: If one of ``parts`` ends before.
    """
    server, said = _open(api, parts), False
    try:
        while True:
            found = server.find_deployment(deployment)
            if found is not None and (not by_event or server.find_automations(found["id"])):
                return
            if not said:
                tell(f"waiting for the runner to register {deployment}")
                said = True
            time.sleep(PAUSE_S)
    except httpx.HTTPError as error:
        raise FollowError(f"the Prefect server at {api} does not answer: {error!r}") from error
    finally:
        server.close()


def follow_run(
    api: str,
    deployment: str,
    since: datetime,
    parts: Sequence[FollowedProcess],
    *,
    tell: Tell,
    cause: Cause | None = None,
) -> FlowRun:
    """Wait for the run of ``deployment`` that comes after ``since``, tell its task runs, return it when it has ended.

    Args:
        api: Address of the Prefect server, ending with ``/api``.
        deployment: ``flow/name``; see ``regraft.flows.server.naming``.
        since: The run was made after this moment; see ``now``.
        parts: Server and runner, so that their end is noticed.
        tell: Gets one line for each thing that happens.
        cause: The event that makes the run. With it, a run that will never come is told from one that is late.

    Raises:
        FollowError: If one of ``parts`` ended, or no run can come: the event is unknown to the server, no automation
            answers it, or the automation could not make the run.
        FlowRunFailed: If the run did not complete, with the last lines of its log.
    """
    _send_what_is_queued()
    server = _open(api, parts)
    try:
        run = _await_run(server, deployment, since, tell, cause)
        tell(f"run {run.name} ({run.id}) was made")
        run = _await_end(server, run, tell)
        if run.state != "COMPLETED":
            raise FlowRunFailed(_describe_failure(server, deployment, run))
        return run
    except httpx.HTTPError as error:
        raise FollowError(f"the Prefect server at {api} does not answer: {error!r}") from error
    finally:
        server.close()


def _open(api: str, parts: Sequence[FollowedProcess]) -> ServerApi:
    def alive() -> None:
        for part in parts:
            if (code := part.process.poll()) is not None:
                raise FollowError(f"the {part.name} ended with code {code}; its log: {part.log}{_tail(part.log)}")

    return ServerApi(api, alive)


def _await_run(server: ServerApi, deployment: str, since: datetime, tell: Tell, cause: Cause | None) -> FlowRun:
    mark, marked, said = None, False, ""
    while True:
        found = server.find_deployment(deployment)
        run = found and server.find_run(found["id"], since)
        if run:
            return run
        waits_for = f"the runner to register {deployment}" if found is None else f"a run of {deployment}"
        if cause is not None:
            mark = mark or server.mark_events(cause.resource)
            events = server.read_events(since)
            sent = [row for row in events if _is_of(row, cause)]
            if sent and found is not None:
                _require_answer(server, found["id"], deployment, sent[-1])
                waits_for = f"the automation of {deployment} to make the run"
            _raise_refusal(events, found, deployment)
            # The server keeps events in the order in which they came; one look more, for what lay between the two.
            if not sent and marked:
                raise FollowError(
                    f"the Prefect server never received the event {cause.event} of {cause.resource}, so no run of "
                    f"{deployment} comes; send it again with: regraft watch"
                )
            marked = any(row["id"] == mark for row in events)
        if waits_for != said:
            tell(f"waiting for {waits_for}")
            said = waits_for
        time.sleep(PAUSE_S)


def _is_of(event: dict[str, Any], cause: Cause) -> bool:
    return event["event"] == cause.event and event["resource"]["prefect.resource.id"] == cause.resource


def _require_answer(server: ServerApi, deployment_id: str, deployment: str, event: dict[str, Any]) -> None:
    """Raise FollowError unless an automation that was there at the time of the event answers it."""
    automations = server.find_automations(deployment_id)
    fitting = [row for row in automations if row["enabled"] and _answers(row["trigger"], event)]
    if not fitting:
        listed = [row["name"] + ("" if row["enabled"] else " (paused)") for row in automations]
        raise FollowError(
            f"no automation makes a run of {deployment} out of the event {event['event']} with "
            f"{event['resource']}; there are: {', '.join(listed) or 'none'}. Register them anew with: regraft deploy"
        )
    made = min(datetime.fromisoformat(row["created"]) for row in fitting)
    if made > datetime.fromisoformat(event["received"]):
        raise FollowError(
            f"the event {event['event']} came at {event['received']}, before the automation that answers it was "
            f"registered ({made.isoformat()}), so no run of {deployment} comes of it; send it again with: regraft watch"
        )


def _answers(trigger: dict[str, Any], event: dict[str, Any]) -> bool:
    match = {key: [value] if isinstance(value, str) else value for key, value in trigger.get("match", {}).items()}
    known = event["resource"]
    return event["event"] in trigger.get("expect", []) and all(known.get(key) in match[key] for key in match)


def _raise_refusal(events: list[dict[str, Any]], found: dict[str, Any] | None, deployment: str) -> None:
    for row in events:
        involved = {related["prefect.resource.id"] for related in row["related"]}
        ours = found is None or f"prefect.deployment.{found['id']}" in involved
        if row["event"] == "prefect.automation.action.failed" and ours:
            raise FollowError(
                f"the Prefect server could not make a run of {deployment}: {row['payload'].get('reason')}"
            )


def _await_end(server: ServerApi, run: FlowRun, tell: Tell) -> FlowRun:
    """Tell each task run when it begins and ends; return the run once it has ended."""
    known: dict[str, str] = {}
    spoken, line = time.monotonic(), ""
    while True:
        news = [] if run.state_name == known.get("") else [f"run is {run.state_name.lower()}"]
        known[""] = run.state_name
        for row in server.read_task_runs(run.id):
            if row["state_name"] != known.get(row["id"]):
                known[row["id"]] = row["state_name"]
                took = f" seconds={row['total_run_time']:.1f}" if row["state_type"] in ("COMPLETED", "FAILED") else ""
                news.append(f"{row['name']} {row['state_name'].lower()}{took}")
        if run.ended:
            news = news[1:] + news[:1]  # its tasks ended before it did
        elif not news and time.monotonic() - spoken > SILENCE_S:
            latest = server.read_log(run.id, 1)
            news = [text for text in latest if text != line]
            line = latest[0] if latest else line
            spoken = time.monotonic()
        for text in news:
            tell(text.splitlines()[0])
            spoken = time.monotonic()
        if run.ended:
            return run
        time.sleep(PAUSE_S)
        run = server.read_run(run.id)


def _describe_failure(server: ServerApi, deployment: str, run: FlowRun) -> str:
    log = "\n".join(_read_whole_log(server, run)).splitlines()[-3 * LOG_LINES :]
    message = run.message.strip() or "no message"
    ended = "\n  ".join(log) or "it wrote none"
    return f"run {run.name} of {deployment} {run.state_name.lower()}: {message}\nIts log ends:\n  {ended}"


def _read_whole_log(server: ServerApi, run: FlowRun) -> list[str]:
    """Return the end of the log once it has come: a run sends its records in batches, the last one as it exits.

    A run that was killed sends no last one: then what is there after some looks at an unchanged log is all there is.
    """
    log, unchanged = server.read_log(run.id, LOG_LINES), 0
    while unchanged < LOOKS and not server.has_whole_log(run.id):
        time.sleep(PAUSE_S)
        latest = server.read_log(run.id, LOG_LINES)
        unchanged = unchanged + 1 if latest == log else 0
        log = latest
    return server.read_log(run.id, LOG_LINES)


def _send_what_is_queued() -> None:
    """Let events that this process has emitted reach the server; Prefect sends them from a thread of its own."""
    if worker := sys.modules.get("prefect.events.worker"):
        worker.EventsWorker.drain_all(at_exit=False)


def _tail(log: Path, lines: int = LOG_LINES) -> str:
    if not log.exists():
        return ""
    return ". It ends:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
