"""What a training run answers: one object for the terminal, for ``--json`` and for the Prefect UI."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regraft.serving.bundle.format import open_bundle
from regraft.tasks.graph.graph import StageRun
from regraft.tasks.graph.prefect_step import inside_flow_run, step
from regraft.tasks.workspace.run_log import record_run
from regraft.tasks.workspace.workspace import Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainReport:
    """The outcome of one pass through the graph and the gate; ``quarantined`` files could not be read.

    ``lost`` has the classes that are missing by permission, ``remarks`` what else people must know of the data.
    """

    version: str
    decision: str
    reason: str
    backbone: str
    metrics: dict[str, Any]
    parity: dict[str, Any]
    gate: dict[str, Any]
    certificate: dict[str, Any]
    stages: list[StageRun]
    report: str
    quarantined: int
    lost: list[str]
    remarks: list[str]
    forecast: dict[str, Any] | None = None

    @property
    def promoted(self) -> bool:
        return self.decision == "promoted"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able view; ``metrics.test.accuracy`` is a plain number."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return plain | {"stages": [run.to_json() for run in self.stages]}


@step
def summarize(
    home: Workspace, flow: str, version: str, decision: str, gate: Any, stages: list[StageRun]
) -> TrainReport:
    """Collect the figures of ``version``, write them to the ledger and publish them in the Prefect UI."""
    folder = home.models_store / "versions" / version
    info = open_bundle(folder, verify=False).info
    validation = json.loads((home.validation / "validation.json").read_text())
    for label in validation.get("lost", {}):
        logger.warning("made without the class %s, as allowed", label)
    report = TrainReport(
        version=version,
        decision=decision,
        reason=gate.reason,
        backbone=info.backbone["name"],
        metrics=dict(info.metrics),
        parity=dict(info.parity),
        gate=gate.to_json(),
        certificate=dict(info.certificate or {}),
        stages=stages,
        report=str(folder / "report.html"),
        quarantined=len(json.loads((home.dataset / "quarantine.json").read_text())),
        lost=sorted(validation.get("lost", {})),
        remarks=list(validation.get("remarks", [])),
    )
    record_run(
        home, flow, {k: v for k, v in report.to_json().items() if k not in ("metrics", "certificate", "forecast")}
    )
    if inside_flow_run():
        _publish(report)
    return report


def _publish(report: TrainReport) -> None:
    from prefect.artifacts import create_link_artifact, create_table_artifact

    create_table_artifact(
        key="regraft-stages",
        table=[run.to_json() for run in report.stages],
        description=f"Version {report.version}: {report.decision}. {report.reason}",
    )
    scores = [
        {"score": name, "value": value} for name, value in report.metrics["test"].items() if isinstance(value, float)
    ]
    create_table_artifact(key="regraft-scores", table=scores, description=f"Test scores of version {report.version}")
    create_link_artifact(
        key="regraft-report", link=Path(report.report).as_uri(), link_text="report.html", description="The whole report"
    )
