"""START HERE. From a folder of images to the version that answers: what happens, in the order in which it happens."""

from collections.abc import Sequence
from pathlib import Path

from prefect import flow

from data.layout import Layout
from tasks.certify import certify
from tasks.evaluate import evaluate
from tasks.export import export
from tasks.finetune import finetune
from tasks.gate import gate
from tasks.graph import StageRun
from tasks.ingest import ingest
from tasks.intake import rescan, take_in
from tasks.preflight import preflight
from tasks.promote import promote
from tasks.push import push
from tasks.record import recall, remember
from tasks.register import register
from tasks.select import select
from tasks.split import split
from tasks.summary import TrainReport, summarize
from tasks.turns import take_turn
from tasks.validate import validate
from tasks.workspace import Workspace, open_workspace


@flow(name="train", flow_run_name="train")
def train(
    workspace: Path,
    data: Path | None = None,
    by: str = "train",
    layout: Layout | None = None,
    allow_lost: tuple[str, ...] = (),
) -> TrainReport:
    """Make a version from the workspace's sources and promote it if the gate agrees.

    Args:
        workspace: A folder made by ``regraft init``.
        data: A folder or manifest that becomes the origin. Default: the one given before.
        by: Who asks, for the journal.
        layout: How the folders of the origin are to be read, where they can be read in two ways.
        allow_lost: Classes that may be lost, by name.
    """
    home = open_workspace(workspace)
    with take_turn(home, "make"):
        preflight(home)
        if data is None:
            rescan(home, layout, allow_lost)
        else:
            take_in(home, data, layout, allow_lost)
        return make_version(home, by)


def make_version(home: Workspace, by: str) -> TrainReport:
    """Run the graph, then register, judge and promote what came out; inside a flow run each line is a task run."""
    stages = [ingest(home), validate(home), split(home)]
    recall(home)
    stages += [select(home), finetune(home), evaluate(home), certify(home), export(home)]
    version = register(home)
    remember(home)
    return judge_version(home, version, by, stages)


def judge_version(home: Workspace, version: str, by: str, stages: Sequence[StageRun] = ()) -> TrainReport:
    """Ask the gate about a registered version, do what it says, and share what came of it."""
    verdict = gate(home, version)
    decision = promote(home, version, verdict, by)
    report = summarize(home, by, version, decision, verdict, list(stages))
    push(home)
    return report
