"""Step ``promote``: what the gate's verdict does to the pointer."""

from typing import Literal

from regraft.models.promotion.gate import GateVerdict
from regraft.serving.registry.registry import Registry
from regraft.tasks.graph.prefect_step import step
from regraft.tasks.workspace.workspace import Workspace

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
