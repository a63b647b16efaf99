"""Run a flow on the Prefect server of the workspace if one is up, else as plain functions in this process."""

import logging
import os
from pathlib import Path
from typing import Any

from regraft.flows.server.stack import EXTRA_LOGGERS, read_stack
from regraft.tasks.workspace.workspace import Workspace


def prepare_prefect(home: Workspace) -> str | None:
    """Point Prefect at the workspace's server, if one answers; must be called before Prefect is imported.

    Returns:
        The server's API address, or None when flows run as plain functions.
    """
    os.environ.setdefault("PREFECT_HOME", str(home.state / "prefect"))
    os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
    # A server's answer may wait behind SQLite; the flow should then wait too, not die.
    os.environ.setdefault("PREFECT_API_REQUEST_TIMEOUT", "120")
    api = os.environ.get("PREFECT_API_URL") or _find_server(home)
    if api is not None:
        os.environ["PREFECT_API_URL"] = api
        # The same records go to the UI; the terminal has them from our own handler.
        os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", EXTRA_LOGGERS)
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "WARNING")
    return api


def run_flow(home: Workspace, flow: str, **arguments: Any) -> Any:
    """Run ``regraft.flows.<flow>`` on the workspace and return what it returns."""
    import importlib

    server = prepare_prefect(home)
    function = getattr(importlib.import_module(f"regraft.flows.{flow}"), flow)
    if server is None:
        return function.fn(Path(home.root), **arguments)
    _leave_the_end_to_us()
    return function(home.root, **arguments)


def _leave_the_end_to_us() -> None:
    """Keep how a run ended off the terminal, where the command says it once; the server has these records too."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).propagate = False


def _find_server(home: Workspace) -> str | None:
    stack = read_stack(home)
    return stack["api"] if stack is not None and _answers(stack["api"]) else None


def _answers(api: str) -> bool:
    import httpx

    try:
        return httpx.get(f"{api}/health", timeout=10, trust_env=False).status_code == 200
    except httpx.TimeoutException:
        return True  # it is there, and busy: a run that passes it by would be missing in its list
    except httpx.HTTPError:
        return False
