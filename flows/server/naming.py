"""What a workspace's things are called on a Prefect server, so that a list of them can be read."""

from typing import Any

from regraft.flows.errors.exit_codes import Outcome
from regraft.tasks.workspace.workspace import Workspace

FLOWS = ("train", "watch", "retrain")
STOPS = {1: "could not", 2: "bad input", 3: "stopped", 4: "busy"}
"""How the name of a run begins that ended with this exit code."""
WANTS = {"audit": "an audit", "label": "labels", "retrain": "a retraining", "judge": "a judgement"}
DIGITS = 6
"""Of a version, enough to tell those of one workspace apart at a glance."""
LONGEST = 90


def name_deployment(home: Workspace, flow: str) -> str:
    """Return the name of the deployment of ``flow``; the server lists it beside those of other workspaces."""
    return f"{home.root.name}-{flow}"


def address_deployment(home: Workspace, flow: str) -> str:
    """Return ``flow/name``, by which the server finds the deployment."""
    return f"{flow}/{name_deployment(home, flow)}"


def name_result(flow: str, result: Any) -> str:
    """Return the name of a run of ``flow`` that came to its end, such as "train: promoted 3f9a21"."""
    if hasattr(result, "verdict"):
        wants = "" if result.action == "none" else f", wants {WANTS.get(result.action, result.action)}"
        return f"{flow}: {result.verdict['decision']}{wants}"
    made = getattr(result, "made", result)  # a retraining holds the report of the training, or None
    if made is None:
        return f"{flow}: {result.decision}"
    version = made.version[:DIGITS]
    if made.promoted:
        return f"{flow}: promoted {version}"
    return (
        f"{flow}: undecided, {version} waits"
        if made.gate["decision"] == "undecided"
        else f"{flow}: kept, not {version}"
    )


def name_stop(flow: str, outcome: Outcome) -> str:
    """Return the name of a run of ``flow`` that stopped early, such as "train: stopped, 2 of 9 expectations failed"."""
    begins = "fault" if outcome.fault else STOPS[outcome.code]
    first = (outcome.message.strip().splitlines() or [""])[0]
    name = f"{flow}: {begins}, {first}"
    return name if len(name) <= LONGEST else name[: LONGEST - 1].rstrip() + "…"
