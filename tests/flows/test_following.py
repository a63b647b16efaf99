"""A run that a Prefect server makes by itself is followed to its end, or to the reason why none can come."""

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from regraft.flows.server.following import (
    Cause,
    FlowRunFailed,
    FollowedProcess,
    FollowError,
    follow_run,
    now,
    wait_deployed,
)
from regraft.flows.server.naming import FLOWS, address_deployment
from regraft.flows.server.stack import StackError, running_server, start_runner, stop
from regraft.tasks.steps.watch import EVENT, resource_of
from regraft.tasks.workspace.workspace import Workspace, init_workspace


class Live:
    """A workspace that has never been trained, and what runs its deployments."""

    def __init__(self, home: Workspace, api: str, parts: list[FollowedProcess]) -> None:
        self.home, self.api, self.parts = home, api, parts
        self.cause = Cause(EVENT, resource_of(home))

    def emit(self, action: str) -> None:
        resource = {"prefect.resource.id": self.cause.resource, "regraft.action": action}
        event = {"id": str(uuid.uuid4()), "occurred": now().isoformat(), "event": EVENT, "resource": resource}
        httpx.post(f"{self.api}/events", json=[event | {"related": [], "payload": {}}], timeout=300).raise_for_status()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    home = init_workspace(tmp_path_factory.mktemp("followed") / "w")
    with running_server(home) as server:
        runner = start_runner(home, server.api)
        try:
            parts = [
                FollowedProcess("Prefect server", server.process, server.log),
                FollowedProcess("runner", runner, home.logs / "runner.log"),
            ]
            wait_deployed(server.api, address_deployment(home, "retrain"), parts, tell=lambda text: None)
            yield Live(home, server.api, parts)
        finally:
            stop(runner)


@pytest.mark.slow
def test_a_run_that_an_event_makes_is_followed_to_its_end(live: Live) -> None:
    told: list[str] = []
    since = now()
    live.emit("retrain")
    address = address_deployment(live.home, "retrain")
    run = follow_run(live.api, address, since, live.parts, tell=told.append, cause=live.cause)
    assert (run.state, run.created >= since) == ("COMPLETED", True)
    assert any(text.startswith("collect completed") for text in told)
    assert (told[-1], run.name) == ("run is completed", "retrain: not enough labels")


@pytest.mark.slow
def test_a_run_that_fails_ends_the_waiting_with_its_own_log(live: Live) -> None:
    since = now()
    address = address_deployment(live.home, "train")
    found = httpx.get(f"{live.api}/deployments/name/{address}", timeout=300).json()
    scheduled = {"state": {"type": "SCHEDULED"}}
    httpx.post(f"{live.api}/deployments/{found['id']}/create_flow_run", json=scheduled, timeout=300).raise_for_status()
    with pytest.raises(FlowRunFailed, match=r"(?s)failed: stage ingest in .*Its log ends:.*intake.json") as caught:
        follow_run(live.api, address, since, live.parts, tell=lambda text: None)
    assert "Traceback" not in str(caught.value)


@pytest.mark.slow
def test_a_planned_stop_is_one_message_in_the_terminal_and_the_first_line_of_the_state(live: Live, run_regraft) -> None:
    # Without a lock the command would see at a glance that there is nothing to train on.
    (live.home.root / "dvc.lock").write_text('schema: "2.0"\nstages: {}\n')
    arguments = ["train", "--workspace", str(live.home.root)]
    result = run_regraft(*arguments, environment={"PREFECT_API_URL": live.api})
    expected = ("forecast: ", "loading what it needs")
    lines = [line for line in result.stderr.splitlines() if not any(text in line for text in expected)]
    assert (result.returncode, len(lines)) == (2, 1), result.stderr
    failed = {"state": {"type": {"any_": ["FAILED"]}}}
    query = {"flow_runs": failed, "sort": "START_TIME_DESC", "limit": 1}
    runs = httpx.post(f"{live.api}/flow_runs/filter", json=query, timeout=300).json()
    assert f"regraft: {runs[0]['state']['message']}" == lines[0]
    assert (runs[0]["state_type"], runs[0]["name"][:24]) == ("FAILED", "train: bad input, stage ")


def test_an_event_that_no_automation_answers_is_not_waited_for(live: Live) -> None:
    since = now()
    live.emit("label")
    with pytest.raises(FollowError, match="no automation makes a run of retrain/w-retrain"):
        follow_run(
            live.api,
            address_deployment(live.home, "retrain"),
            since,
            live.parts,
            tell=lambda text: None,
            cause=live.cause,
        )


def test_an_event_that_was_never_sent_is_not_waited_for(live: Live) -> None:
    with pytest.raises(FollowError, match="never received the event"):
        follow_run(
            live.api,
            address_deployment(live.home, "retrain"),
            now(),
            live.parts,
            tell=lambda text: None,
            cause=live.cause,
        )


def test_without_a_runner_nothing_is_waited_for(live: Live, tmp_path: Path) -> None:
    log = tmp_path / "runner.log"
    log.write_text("what it said last\n")
    ended = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
    ended.wait()
    parts = [live.parts[0], FollowedProcess("runner", ended, log)]
    with pytest.raises(FollowError, match=r"(?s)runner ended with code 7.*runner.log.*what it said last"):
        follow_run(live.api, address_deployment(live.home, "retrain"), now(), parts, tell=lambda text: None)


def test_the_deployments_of_a_workspace_can_be_told_apart(live: Live) -> None:
    listed = httpx.post(f"{live.api}/deployments/filter", json={}, timeout=300).json()
    assert sorted(row["name"] for row in listed) == sorted(f"w-{flow}" for flow in FLOWS)


def test_names_of_an_earlier_release_go_and_names_of_another_workspace_stay(live: Live, tmp_path: Path) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from regraft.flows.deployments import forget_former_names, require_own_names

    namesake = init_workspace(tmp_path / "w")
    found = httpx.get(f"{live.api}/deployments/name/{address_deployment(live.home, 'train')}", timeout=300).json()
    for name, home in (("w", live.home), ("x", live.home)):
        former = {"name": name, "flow_id": found["flow_id"], "parameters": {"workspace": str(home.root)}}
        httpx.post(f"{live.api}/deployments/", json=former, timeout=300).raise_for_status()
    with temporary_settings({PREFECT_API_URL: live.api}):
        forget_former_names(live.home)
        require_own_names(live.home)
        with pytest.raises(StackError, match=f"train/w-train as that of {live.home.root}"):
            require_own_names(namesake)
    listed = httpx.post(f"{live.api}/deployments/filter", json={}, timeout=300).json()
    assert sorted(row["name"] for row in listed) == ["w-retrain", "w-train", "w-watch", "x"]
