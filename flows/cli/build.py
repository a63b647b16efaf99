"""Commands that make something: a workspace, a version, a verdict on production, a backbone."""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regraft.flows import commands
from regraft.flows.cli.app import JsonOption, WorkspaceOption, answer, app
from regraft.flows.cli.checks import check_stage, check_teacher, check_training
from regraft.tasks.workspace.workspace import init_workspace, open_workspace

if TYPE_CHECKING:
    from regraft.tasks.graph.train_report import TrainReport

HERE = Path()
logger = logging.getLogger(__name__)


@app.command(epilog="Example: regraft init W --remote s3://bucket/w")
def init(
    folder: Annotated[Path, typer.Argument(help="The folder to use; made if absent.")],
    remote: Annotated[str | None, typer.Option(help="DVC remote. Default: a folder inside the workspace.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a folder a workspace: parameters, the graph, a DVC repository with a verified remote."""
    from regraft.serving.files.durable import write_bytes
    from regraft.tasks.planning.preflight import find_remote_problems
    from regraft.tasks.sharing.remote_store import RemoteError

    settings = folder.expanduser() / ".dvc" / "config"
    before = settings.read_bytes() if settings.exists() else None
    home = init_workspace(folder, remote=remote)
    if problems := find_remote_problems(home, probe=True):
        if before is not None and remote is not None:
            write_bytes(settings, before)
            raise RemoteError(f"the remote of {home.root} stays as it was: {'; '.join(problems)}")
        raise RemoteError(f"{home.root} is a workspace now, but {'; '.join(problems)}")
    lines = f"workspace {home.root}\nnext: regraft train --workspace {folder} --data DIR"
    answer({"workspace": str(home.root)}, as_json, lines)


@app.command(
    epilog="Example: regraft train --workspace W --data photos/ --backbones mirror/ --set finetune.budget_s=60 --json"
)
def train(
    workspace: WorkspaceOption = HERE,
    data: Annotated[Path | None, typer.Option(help="Folder per class, or a CSV or Parquet manifest.")] = None,
    backbones: Annotated[
        str | None, typer.Option(help="Folder or URL with backbones in the hub's folder format.")
    ] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="section.key=value in params.yaml.")] = None,
    time_budget: Annotated[
        str | None,
        typer.Option(help="End by then: 90s, 10m, 1h. Sets finetune.budget_s and finetune.stop_s for this machine."),
    ] = None,
    classes_at: Annotated[
        int | None, typer.Option(min=1, help="Folder level that names the classes, below a wrapper and the parts.")
    ] = None,
    groups_at: Annotated[
        int | None, typer.Option(min=1, help="Folder level whose images belong together and stay in one part.")
    ] = None,
    similar_labels: Annotated[
        str | None, typer.Option(help="Class names that differ in case or blanks: merge, or apart.")
    ] = None,
    allow_lost: Annotated[
        list[str] | None, typer.Option(help="A class that may be missing from now on; once for each.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train on a folder of labelled images and promote the result if the gate agrees."""
    home = open_workspace(workspace)
    check_training(home, data, backbones, assignments or [], time_budget)
    logger.info("train %s: loading what it needs", home.root)  # seconds, in which nobody should wonder
    from regraft.data.sources.layout import Layout
    from regraft.tasks.settings.duration import parse_duration
    from regraft.tasks.settings.knobs import parse_assignments

    report = commands.train(
        home,
        data,
        backbones,
        parse_assignments(assignments or []),
        None if time_budget is None else parse_duration(time_budget),
        Layout(classes_at, groups_at, similar_labels).check(),
        allow_lost or (),
    )
    answer(report.to_json(), as_json, _describe(report, workspace))
    if not report.promoted:
        raise typer.Exit(3)


@app.command(epilog="Example: regraft stage split --workspace W")
def stage(
    name: Annotated[str, typer.Argument(help="A stage of dvc.yaml.")],
    workspace: WorkspaceOption = HERE,
) -> None:
    """Run one stage of the graph; `dvc repro` calls this."""
    home = open_workspace(workspace)
    check_stage(home, name)
    from regraft.tasks.graph.graph import run_stage_alone

    run_stage_alone(home, name)


@app.command(epilog="Example: regraft watch --workspace W --json")
def watch(workspace: WorkspaceOption = HERE, as_json: JsonOption = False) -> None:
    """Judge the latest predictions against the champion's reference; say whether labels or a retraining are wanted."""
    report = commands.watch(open_workspace(workspace))
    kind = "" if report.verdict["kind"] == "none" else f" ({report.verdict['kind']})"
    lines = [f"{report.verdict['decision']}{kind}: {report.verdict['reason']}"]
    if report.action != "none":
        lines.append(f"wanted: {report.action}. {report.reason}")
    if report.page:
        lines.append(f"all windows: {report.page}")
    answer(report.to_json(), as_json, "\n".join(lines))


@app.command(epilog="Example: regraft retrain --workspace W --force")
def retrain(
    workspace: WorkspaceOption = HERE,
    force: Annotated[bool, typer.Option(help="Retrain with whatever labels there are.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train on old and newly labelled images together and promote the result if it is really better."""
    report = commands.retrain(open_workspace(workspace), force)
    answer(
        report.to_json(),
        as_json,
        _describe(report.made, workspace)
        if report.made
        else f"not retrained: {report.batch.reason if report.batch else report.decision}",
    )
    if report.decision != "promoted":
        raise typer.Exit(3)


@app.command(epilog="Example: regraft pretrain --into backbones/ --teacher mirror/mobilenetv2_100.tv_in1k")
def pretrain(
    into: Annotated[Path, typer.Option(help="Folder that receives <arch.tag>/ in the hub's folder format.")],
    teacher: Annotated[
        Path | None,
        typer.Option(help="Folder of an Apache-2.0 MobileNetV2 to learn from. Default: the formulas' labels."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Optimiser steps; with --teacher, of the last phase. Default: the recipe's."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a small backbone from formula-driven images only, with or without a larger one to learn from."""
    check_teacher(teacher)
    from regraft.tasks.graph.progress import show_progress
    from regraft.tasks.steps.pretrain import DistilConfig, PretrainConfig, distil
    from regraft.tasks.steps.pretrain import pretrain as run_pretraining

    config = PretrainConfig() if teacher is None else DistilConfig()
    if steps is not None:
        recipe = type(config.recipe).model_validate(config.recipe.model_dump() | {"steps": steps})
        config = config.model_copy(update={"recipe": recipe})
    with show_progress("pretraining") as progress:
        if teacher is None:
            made = run_pretraining(into, config, progress=progress)
        else:
            made = distil(into, teacher, config, progress=progress)
    written = made.backbone
    result = {
        "name": written.name,
        "folder": str(written.folder),
        "sha256": written.sha256,
        "bytes": written.bytes,
        "steps": made.steps,
    }
    result |= {"accuracy": made.accuracy} if teacher is None else {"unexplained": made.unexplained}
    answer(result, as_json, "\n".join(f"{name}: {value}" for name, value in result.items()))


def _describe(report: "TrainReport", workspace: Path) -> str:
    from rich.console import Console
    from rich.table import Table

    test = report.metrics["test"]
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_row("version", f"{report.version} ({report.decision})")
    table.add_row("why", report.reason)
    table.add_row("backbone", report.backbone)
    groups = f" in {test['groups']} groups" if "groups" in test else ""
    table.add_row("test images", f"{test['n']}{groups}; every class weighs alike in verdicts: balanced accuracy")
    for name in ("accuracy", "balanced_accuracy"):
        table.add_row(f"test {name}", f"{test[name]:.3f}  [{test[f'{name}_low']:.3f}, {test[f'{name}_high']:.3f}]")
    if before := report.gate.get("judged_before"):
        table.add_row("judged before", f"{before} other versions by the same test part; new test images judge afresh")
    table.add_row("certificate", report.certificate.get("reason", "none"))
    table.add_row("onnx against torch", f"max |Δp| {report.parity['max_abs_diff']:.1e}")
    table.add_row("stages", ", ".join(f"{run.name} {run.state} {run.seconds:.1f} s" for run in report.stages))
    if report.quarantined:
        table.add_row("left out", f"{report.quarantined} files that cannot be read; the report names them")
    for remark in report.remarks:
        table.add_row("note", remark)
    table.add_row("report", report.report)
    if report.promoted:
        table.add_row("next", f"regraft serve --workspace {workspace}")
    else:
        table.add_row("next", f"regraft promote {report.version} --workspace {workspace}, to overrule the gate")
    # A pipe gets whole lines; a terminal gets lines that fit it.
    console = Console() if sys.stdout.isatty() else Console(width=150)
    with console.capture() as captured:
        console.print(table)
    return captured.get()
