"""The whole loop on a rendered production line: train, serve, drift, label, retrain, swap; with real servers."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from regraft.data.synthetic.steel import DIMMED, REFITTED, SteelLine, render_folder
from regraft.flows.demo.closing import close_loop
from regraft.flows.demo.plant import Plant
from regraft.flows.driver import run_flow
from regraft.flows.server.following import Cause, FollowedProcess, follow_run, wait_deployed
from regraft.flows.server.naming import address_deployment
from regraft.flows.server.stack import (
    Server,
    endpoint_settings,
    free_port,
    start_runner,
    start_server,
    stop,
    wait_server,
)
from regraft.serving.files.durable import write_json
from regraft.serving.process.process import start_service, stop_service
from regraft.tasks.graph.progress import show_progress
from regraft.tasks.steps.watch import EVENT, resource_of
from regraft.tasks.workspace.run_log import read_runs
from regraft.tasks.workspace.workspace import Workspace, WorkspaceError, init_workspace

PER_CLASS = 120
SETTINGS = {
    "finetune.budget_s": 8,  # not one epoch fits: with 25 s, on every line tried, the linear head was kept all the same
    "evaluate.shift_images": 40,
    "certify.trial_s": 0.5,
    "certify.max_images": 100,
    "certify.sizes": [0.5, 1.0],
    "watch.window": 150,
    "watch.every_s": 86_400,  # the story tells when to look; a scheduled look beside it would find the lock held
    "retrain.min_labels": 120,
}
"""A demo should not take longer than a coffee; everything else is as in params.yaml."""


class DemoFailed(RuntimeError):  # noqa: N818
    """The loop did not close: the message says where."""

    exit_code = 1


class DemoRefused(RuntimeError):  # noqa: N818
    """The gate's honest no: the retrained version is not better, and the message says why."""

    exit_code = 3


@dataclass
class Story:
    """Tells the steps to the terminal and keeps their durations."""

    console: Console
    seconds: dict[str, float]

    @contextmanager
    def chapter(self, number: int, title: str) -> Iterator[None]:
        self.console.print(f"[bold]{number}. {title}[/bold]")
        started = time.perf_counter()
        yield
        self.seconds[title] = round(time.perf_counter() - started, 1)

    def tell(self, text: str) -> None:
        self.console.print(f"   {text}", highlight=False)


def run_demo(folder: Path) -> dict[str, Any]:
    """Play the loop in ``folder`` and return its figures; all that it started is stopped at its end or on interruption.

    Raises:
        DemoFailed: If drift was not seen, or a request failed.
        DemoRefused: If the gate said no to what was retrained.
        FollowError, FlowRunFailed: If the retraining could not run or failed.
    """
    started = time.perf_counter()
    story = Story(Console(file=sys.stderr, width=120), {})
    home = _fresh_workspace(folder)
    with ExitStack() as running:
        with story.chapter(1, "render a steel-strip inspection line"):
            server = start_server(home)
            running.callback(stop, server.process)
            images = home.state / "line"
            with show_progress("rendering") as progress:
                render_folder(images, SteelLine.default(), PER_CLASS, seed=0, progress=progress)
            story.tell(f"{PER_CLASS} images of each of six classes in {images}")
        with story.chapter(2, "train on a Prefect server"):
            wait_server(server)
            _use_server(home, server.api)
            story.tell(f"Prefect UI while this runs: {server.ui}")
            plant, runner = _open_plant(home, running, server, story)
            made = run_flow(home, "train", data=images)
            accuracy = made.metrics["test"]["accuracy"]
            story.tell(f"version {made.version} on {made.backbone}, test accuracy {accuracy:.3f}: {made.decision}")
        figures = {"backbone": made.backbone, "version before": made.version}
        figures |= _play(home, story, plant, runner, made.version)
    figures["seconds"] = round(time.perf_counter() - started, 1)
    _close(home, story, figures)
    return figures


def _play(home: Workspace, story: Story, plant: Plant, runner: "Runner", version: str) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    with story.chapter(3, "serve with BentoML and ask over HTTP"):
        plant.await_version(version)
        figures["accuracy before"] = plant.send(20)
        story.tell(f"{plant.endpoint} names {figures['accuracy before']:.1%} of 120 new images rightly")
        story.tell(f"watch: {run_flow(home, 'watch').verdict['reason']}")
    with story.chapter(4, "the lamp grows dimmer: a change that does no harm"):
        plant.line = DIMMED
        figures["accuracy under the dimmer lamp"] = plant.send(20)
        figures["labels of the audit"] = _settle_harmless(home, story, plant)
    with story.chapter(5, "refit the line: another lamp, a camera out of focus"):
        plant.line = REFITTED
        figures["accuracy after the drift"] = plant.send(40)
        story.tell(f"now {figures['accuracy after the drift']:.1%} of 240")
        report = run_flow(home, "watch")
        story.tell(f"watch: {report.verdict['decision']}, kind {report.verdict['kind']}. {report.reason}")
        if report.action not in ("audit", "label"):
            raise DemoFailed(f"the watch did not ask for labels: {report.action}, {report.reason}")
        runner.wait()
    with story.chapter(6, "label, retrain on the drift event, judge"), plant.traffic() as counts:
        closed = close_loop(home, plant, runner.follow, story.tell)
        if not closed.promoted:
            raise DemoRefused(f"the retrained version was not promoted: {closed.judgement.reason}")
        figures |= {"labels": closed.labels, "looks of the gate": closed.judgement.look}
        figures["version after"] = plant.await_version(closed.judgement.version)
        plant.await_traffic(counts)
        figures |= {"requests during the swap": counts["requests"], "failed requests": counts["failed"]}
        figures["accuracy after retraining"] = plant.send(20)
        plant.line = SteelLine.default()
        figures["accuracy on the old line"] = plant.send(20)
    if figures["failed requests"]:
        raise DemoFailed(
            f"{figures['failed requests']} of {figures['requests during the swap']} requests failed during the swap"
        )
    return figures


def _settle_harmless(home: Workspace, story: Story, plant: Plant) -> int:
    """Let the watch look at a line that has changed without harm; return the labels that it took to be sure of that."""
    labels, report = 0, run_flow(home, "watch")
    story.tell(f"watch: {report.verdict['decision']}, kind {report.verdict['kind']}. {report.verdict['reason']}")
    while report.action == "audit":
        labels += plant.inspect(report.queue)
        report = run_flow(home, "watch")
    # Of twenty audits of a harmless change one calls harm: then the loop goes on with labels, as on a real line.
    story.tell(f"{labels} random labels later: {report.reason}" if labels else "nobody was asked for anything")
    return labels


def _fresh_workspace(folder: Path) -> Workspace:
    folder = folder.expanduser().resolve()
    marker = folder / ".regraft" / "demo"
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise WorkspaceError(f"{folder} is not empty and not an earlier demo; name another folder")
    shutil.rmtree(folder, ignore_errors=True)
    marker.parent.mkdir(parents=True)
    marker.touch()
    from regraft.tasks.settings.params import set_params  # torch comes with it: the check above must not wait for that

    home = init_workspace(folder)
    set_params(home.params, SETTINGS)
    return home


def _use_server(home: Workspace, api: str) -> None:
    # Prefect reads these when it is first imported, which has not happened yet.
    os.environ["PREFECT_API_URL"] = api
    os.environ["PREFECT_HOME"] = str(home.state / "prefect")


@dataclass(frozen=True, slots=True)
class Runner:
    """The process that runs what the server makes out of an event; ``parts`` are what waiting for it depends on."""

    home: Workspace
    api: str
    parts: list[FollowedProcess]
    tell: Callable[[str], None]

    def wait(self) -> None:
        """Return once an event would make a retraining."""
        wait_deployed(self.api, address_deployment(self.home, "retrain"), self.parts, tell=self.tell)

    def follow(self, since: datetime) -> None:
        """Follow the retrain flow that an event after ``since`` makes, to its end."""
        cause = Cause(EVENT, resource_of(self.home))
        deployment = address_deployment(self.home, "retrain")
        follow_run(self.api, deployment, since, self.parts, tell=self.tell, cause=cause)


def _open_plant(home: Workspace, running: ExitStack, server: Server, story: Story) -> tuple[Plant, Runner]:
    """Start the endpoint and the runner of the deployments; both come up while the training runs."""
    port = free_port()
    service = start_service(home.root, port, log=home.logs / "endpoint.log", settings=endpoint_settings(home))
    running.callback(stop_service, service)
    runner = start_runner(home, server.api)
    running.callback(stop, runner)
    parts = [
        FollowedProcess("Prefect server", server.process, server.log),
        FollowedProcess("runner", runner, home.logs / "runner.log"),
        FollowedProcess("endpoint", service, home.logs / "endpoint.log"),
    ]
    plant = Plant(f"http://127.0.0.1:{port}", SteelLine.default(), is_running=lambda: service.poll() is None)
    return plant, Runner(home, server.api, parts, story.tell)


def _close(home: Workspace, story: Story, figures: dict[str, Any]) -> None:
    with story.chapter(7, "the figures"):
        table = Table(show_header=False)
        for name, value in figures.items():
            table.add_row(name, f"{value:.1%}" if name.startswith("accuracy") else str(value))
        for name, seconds in story.seconds.items():
            table.add_row(f"seconds: {name}", f"{seconds:.1f}")
        for run in read_runs(home):
            spent = ", ".join(f"{stage['name']} {stage['seconds']:.1f}" for stage in run["stages"])
            table.add_row(f"seconds of {run['flow']}", spent)
        story.console.print(table)
    write_json(home.state / "demo.json", {"figures": figures, "seconds": story.seconds})
    report = home.models_store / "versions" / figures["version after"] / "report.html"
    story.console.print(f"report: {report}", soft_wrap=True)
    story.console.print(f"all windows of the watch: {home.state / 'watch.html'}", soft_wrap=True)
    story.console.print("look at it all (Prefect UI, runs, schedules, the endpoint and its page):")
    story.console.print(f"regraft up --workspace {home.root}", soft_wrap=True)
