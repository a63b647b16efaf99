"""START HERE. From a folder of images to the version that answers: what happens, in the order in which it happens."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from prefect import flow

from regraft.data.sources.layout import Layout
from regraft.flows.server.telling import tell_outcome
from regraft.models.compute.memory import keep_memory
from regraft.tasks.graph.graph import StageRun
from regraft.tasks.graph.train_report import TrainReport, summarize
from regraft.tasks.planning.forecast import forecast_training
from regraft.tasks.planning.intake import rescan, take_in
from regraft.tasks.planning.offer import survey
from regraft.tasks.planning.preflight import preflight
from regraft.tasks.planning.run_history import extend_run_history, read_run_history
from regraft.tasks.planning.time_budget import fit_into
from regraft.tasks.settings.terms import Terms, hold_terms
from regraft.tasks.stages.certify import certify
from regraft.tasks.stages.evaluate import evaluate
from regraft.tasks.stages.export import export
from regraft.tasks.stages.finetune import finetune
from regraft.tasks.stages.ingest import ingest
from regraft.tasks.stages.select import select
from regraft.tasks.stages.split import split
from regraft.tasks.stages.validate import validate
from regraft.tasks.steps.gate import gate
from regraft.tasks.steps.promote import promote
from regraft.tasks.steps.push import push
from regraft.tasks.steps.register import register
from regraft.tasks.workspace.locks import hold_lock
from regraft.tasks.workspace.workspace import Workspace, open_workspace


@flow(name="train", flow_run_name="train")
@tell_outcome
def train(
    workspace: Path,
    data: Path | None = None,
    by: str = "train",
    layout: Layout | None = None,
    allow_lost: tuple[str, ...] = (),
    settings: dict[str, Any] | None = None,
    time_budget_s: float | None = None,
) -> TrainReport:
    """Make a version from the workspace's sources and promote it if the gate agrees.

    Args:
        workspace: A folder made by ``regraft init``.
        data: A folder or manifest that becomes the origin. Default: the one given before.
        by: Who asks, for the journal.
        layout: How the folders of the origin are to be read, where they can be read in two ways.
        allow_lost: Classes that may be lost, by name.
        settings: ``section.key`` of params.yaml and its value from this run on; a run that is refused leaves no trace.
        time_budget_s: Seconds within which the run should end.
    """
    home = open_workspace(workspace)
    said = {name: value for name, value in asdict(layout or Layout()).items() if value}
    asked = Terms("train", settings or {}, str(data) if data else None, time_budget_s, tuple(allow_lost), said)
    with hold_lock(home, "make"):
        preflight(home)
        with hold_terms(home, asked) as terms:
            read_as = Layout(**terms.layout)
            if terms.data is None:
                rescan(home, read_as, terms.allow_lost)
            else:
                take_in(home, Path(terms.data), read_as, terms.allow_lost)
            budget_s = terms.time_budget_s
            forecast = forecast_training(home, None) if budget_s is None else fit_into(home, None, budget_s)
            return replace(make_version(home, by), forecast=forecast.to_json())


@keep_memory()
def make_version(home: Workspace, by: str) -> TrainReport:
    """Run the graph, then register, judge and promote what came out; inside a flow run each line is a task run."""
    stages = [ingest(home), validate(home), split(home)]
    read_run_history(home)
    survey(home)
    stages += [select(home), finetune(home), evaluate(home), certify(home), export(home)]
    version = register(home)
    extend_run_history(home)
    return judge_version(home, version, by, stages)


def judge_version(home: Workspace, version: str, by: str, stages: Sequence[StageRun] = ()) -> TrainReport:
    """Ask the gate about a registered version, do what it says, and share what came of it."""
    verdict = gate(home, version)
    decision = promote(home, version, verdict, by)
    report = summarize(home, by, version, decision, verdict, list(stages))
    push(home)
    return report
