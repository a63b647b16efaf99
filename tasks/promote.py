"""Step ``promote``: what the gate's verdict does to the pointer."""

from typing import Literal

from models.gate import GateVerdict
from serving.registry import Registry
from tasks.step import step
from tasks.workspace import Workspace

Decision = Literal["promoted", "kept champion"]


@step
def promote(home: Workspace, version: str, verdict: GateVerdict, by: str) -> Decision:
    """Make ``version`` the champion if the verdict says so; otherwise leave it as the challenger."""
    registry = Registry(home.models_store)
    if registry.pointer().champion == version:
        return "promoted"
    if verdict.decision == "promote":
        registry.promote(version, by=by, reason=verdict.reason)
        return "promoted"
    registry.challenge(version, by=by, reason=verdict.reason)
    return "kept champion"
