"""The few questions that are put to a Prefect server while one of its runs is followed; Prefect is not imported."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
TRACES = ("regraft.", "prefect.automation.")
"""Names of the events that show how a run comes about."""


@dataclass(frozen=True, slots=True)
class FlowRun:
    """One flow run as the server has it now."""

    id: str
    name: str
    state: str
    """Its type in capitals: SCHEDULED, PENDING, RUNNING, COMPLETED, FAILED, CRASHED, CANCELLED, ..."""
    state_name: str
    message: str
    created: datetime

    @property
    def ended(self) -> bool:
        """True once nothing more happens in this run."""
        return self.state in ENDED


class ServerApi:
    """Read access to a Prefect server; a request that the server cannot answer is put again while ``alive`` agrees.

    Args:
        api: Address that ends with ``/api``.
        alive: Raises if asking again is in vain; it is called before each request.
    """

    def __init__(self, api: str, alive: Callable[[], None]) -> None:
        # Nothing stands between us and a server on this machine, whatever the environment says of proxies.
        direct = urlsplit(api).hostname in LOOPBACK
        self._client = httpx.Client(base_url=api, timeout=30, trust_env=not direct)
        self._alive = alive

    def close(self) -> None:
        """Give the connection back."""
        self._client.close()

    def find_deployment(self, name: str) -> dict[str, Any] | None:
        """Return the deployment called ``flow/name``, or None."""
        reply = self._ask("GET", f"/deployments/name/{name}", None)
        return None if reply.status_code == 404 else reply.json()

    def find_automations(self, deployment_id: str) -> list[dict[str, Any]]:
        """Return the automations that run the deployment."""
        rows = self._ask("POST", "/automations/filter", {"limit": 200}).json()
        return [row for row in rows if any(act.get("deployment_id") == deployment_id for act in row["actions"])]

    def find_run(self, deployment_id: str, since: datetime) -> FlowRun | None:
        """Return the first run of the deployment that was made after ``since`` and not by its schedule."""
        wanted = {"deployment_id": {"any_": [deployment_id]}}
        query = {"flow_runs": wanted, "sort": "EXPECTED_START_TIME_DESC", "limit": 100}
        rows = self._ask("POST", "/flow_runs/filter", query).json()
        runs = [_as_run(row) for row in rows if not row["auto_scheduled"]]
        return min((run for run in runs if run.created >= since), key=lambda run: run.created, default=None)

    def read_run(self, run_id: str) -> FlowRun:
        """Return the run as it is now."""
        return _as_run(self._ask("GET", f"/flow_runs/{run_id}", None).json())

    def read_task_runs(self, run_id: str) -> list[dict[str, Any]]:
        """Return the task runs of a run, the earliest first."""
        query = {"flow_runs": {"id": {"any_": [run_id]}}, "limit": 200}
        rows = self._ask("POST", "/task_runs/filter", query).json()
        return sorted(rows, key=lambda row: row["start_time"] or row["created"])

    def read_log(self, run_id: str, lines: int) -> list[str]:
        """Return the last ``lines`` messages of a run's log, the oldest first."""
        return [row["message"] for row in self._read_records(run_id, lines)]

    def has_whole_log(self, run_id: str) -> bool:
        """Say whether the last record of a run has come; its tasks write the same words under another name."""
        return any(
            row["name"] == "prefect.flow_runs" and row["message"].startswith("Finished in state")
            for row in self._read_records(run_id, 5)
        )

    def _read_records(self, run_id: str, count: int) -> list[dict[str, Any]]:
        wanted = {"flow_run_id": {"any_": [run_id]}}
        rows = self._ask("POST", "/logs/filter", {"logs": wanted, "sort": "TIMESTAMP_DESC", "limit": count}).json()
        return list(reversed(rows))

    def read_events(self, since: datetime) -> list[dict[str, Any]]:
        """Return ours and the automations' events that happened after ``since``."""
        wanted = {"occurred": {"since": since.isoformat()}, "event": {"prefix": list(TRACES)}}
        return self._ask("POST", "/events/filter", {"filter": wanted, "limit": 50}).json()["events"]

    def mark_events(self, resource: str) -> str:
        """Put an event behind all that the server has been sent so far; return its id."""
        mark = {
            "id": str(uuid.uuid4()),
            "occurred": datetime.now(UTC).isoformat(),
            "event": "regraft.following",
            "resource": {"prefect.resource.id": resource},
            "related": [],
            "payload": {},
        }
        self._ask("POST", "/events", [mark])
        return str(mark["id"])

    def _ask(self, method: str, path: str, body: Any) -> httpx.Response:
        while True:
            self._alive()
            try:
                reply = self._client.request(method, path, json=body)
            except httpx.TimeoutException:
                continue  # a busy machine: it was asked for thirty seconds, and is asked again
            if reply.status_code < 500:
                break
        if reply.status_code != 404:
            reply.raise_for_status()
        return reply


def _as_run(row: dict[str, Any]) -> FlowRun:
    state = row.get("state") or {}
    return FlowRun(
        id=row["id"],
        name=row["name"],
        state=row["state_type"] or "PENDING",
        state_name=row["state_name"] or "Pending",
        message=state.get("message") or "",
        created=datetime.fromisoformat(row["created"]),
    )
