"""A live Prefect server: the schedule makes runs, the drift event a retraining, a skipped stage shows as Cached."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from regraft.flows.server.following import FollowedProcess, wait_deployed
from regraft.flows.server.naming import FLOWS, address_deployment
from regraft.flows.server.stack import child_environment, running_server, start_runner, stop
from regraft.tasks.settings.params import set_params
from regraft.tasks.steps.watch import EVENT, resource_of
from regraft.tasks.workspace.workspace import Workspace

PATIENCE_S = 900
"""What ends a test that hangs; a busy machine may need many times what an idle one does."""


class Live:
    """The workspace of the test and the server that runs its deployments."""

    def __init__(self, home: Workspace, api: str) -> None:
        self.home = home
        self.api = api

    def runs(self, flow: str) -> list[dict[str, Any]]:
        begun = {"state": {"type": {"not_any_": ["SCHEDULED"]}}}
        query = {"flows": {"name": {"any_": [flow]}}, "flow_runs": begun, "sort": "START_TIME_DESC", "limit": 50}
        return httpx.post(f"{self.api}/flow_runs/filter", json=query, timeout=300).json()

    def wait(self, flow: str, accept: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for run in self.runs(flow):
                if accept(run):
                    return run
            time.sleep(1)
        log = (self.home.logs / "runner.log").read_text()[-3000:]
        raise AssertionError(
            f"no {flow} run came; there are {[(r['name'], r['state_name']) for r in self.runs(flow)]}\n{log}"
        )

    def emit(self, action: str) -> None:
        code = (
            "from prefect.events import emit_event\n"
            f"emit_event({EVENT!r}, resource={{'prefect.resource.id': {resource_of(self.home)!r}, "
            f"'regraft.action': {action!r}}})\n"
        )
        environment = child_environment(self.home, self.api)
        subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)


@pytest.fixture(scope="module")
def live(trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    import shutil

    root = tmp_path_factory.mktemp("live") / "w"
    shutil.copytree(trained.home.root, root, symlinks=True)
    home = Workspace(root)
    set_params(home.params, {"watch.every_s": 6})
    with running_server(home) as server:
        runner = start_runner(home, server.api)
        parts = [FollowedProcess("server", server.process, server.log)]
        parts.append(FollowedProcess("runner", runner, home.logs / "runner.log"))
        try:
            for flow in FLOWS:  # an event or a question before that finds nothing
                address = address_deployment(home, flow)
                wait_deployed(server.api, address, parts, tell=print, by_event=flow == "retrain")
            yield Live(home, server.api)
        finally:
            stop(runner)


def completed(run: dict[str, Any]) -> bool:
    return run["state_type"] == "COMPLETED"


@pytest.mark.slow
def test_the_schedule_really_makes_runs(live: Live) -> None:
    run = live.wait("watch", completed)
    assert run["auto_scheduled"]


@pytest.mark.slow
def test_a_drift_event_makes_a_retraining(live: Live) -> None:
    live.emit("retrain")
    run = live.wait("retrain", completed)
    assert run["created_by"]["type"] == "AUTOMATION"


@pytest.mark.slow
def test_an_event_that_only_asks_for_labels_makes_none(live: Live) -> None:
    before = {run["id"] for run in live.runs("retrain")}
    live.emit("label")
    live.emit("retrain")  # events are taken in order: once this one has made its run, the other one's would be there
    live.wait("retrain", lambda run: run["id"] not in before and completed(run))
    assert len({run["id"] for run in live.runs("retrain")} - before) == 1


@pytest.mark.slow
def test_a_flow_run_shows_its_tasks_skipped_ones_as_cached_and_links_the_report(live: Live) -> None:
    environment = dict(os.environ) | {"PREFECT_API_URL": live.api}
    command = [str(Path(sys.executable).with_name("regraft")), "train", "--workspace", str(live.home.root), "--json"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    run = live.wait("train", completed)
    query = {"flow_runs": {"id": {"any_": [run["id"]]}}}
    tasks = httpx.post(f"{live.api}/task_runs/filter", json=query, timeout=300).json()
    states = {task["name"]: task["state_name"] for task in tasks}
    assert {states[name] for name in ("ingest", "validate", "split", "select", "finetune", "evaluate", "export")} == {
        "Cached"
    }
    assert {"register", "gate", "promote", "push", "summarize"} <= set(states)
    made = httpx.post(f"{live.api}/artifacts/filter", json={}, timeout=300).json()
    assert {"regraft-stages", "regraft-scores", "regraft-report"} <= {artifact["key"] for artifact in made}
