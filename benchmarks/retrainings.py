"""How the demo's loop ends when line and queue are drawn anew: promoted, refused or stuck, and after how many labels.

Each line is a training folder of its own; each queue another stretch of production after lamp and camera changed. All
real: workspace, endpoint over HTTP, labels through /feedback, the whole graph, the gate.
"""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine
from regraft.data.synthetic.steel import DRIFTED, SteelLine, render_folder
from regraft.flows.demo.closing import LoopStuck, close_loop
from regraft.flows.demo.demo import PER_CLASS, SETTINGS
from regraft.flows.demo.plant import FIRST_SEED, Plant
from regraft.flows.driver import run_flow
from regraft.flows.server.stack import endpoint_settings, free_port
from regraft.models.statistics.intervals import wilson_interval
from regraft.serving.process.process import start_service, stop_service
from regraft.serving.registry.registry import Registry
from regraft.tasks.settings.params import set_params
from regraft.tasks.workspace.workspace import Workspace, init_workspace

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks" / "retrainings.md"
LINES, QUEUES = 5, 8
QUEUE_STRIDE = 20_000
"""Production images of one queue at most; queues share none."""


def measure_retrainings(arguments: list[str]) -> int:
    """Play every line and queue in the folder named first (or a fresh one), write the page, return the exit code.

    A run that was stopped goes on where it was: each result is a line of ``results.jsonl`` in that folder. With two
    numbers more, N and M, only every Mth line from the Nth on is played and no page is written: several processes can
    share the work.
    """
    work = Path(arguments[0] if arguments else "workspaces/retrainings").resolve()
    first, step = (int(arguments[1]), int(arguments[2])) if len(arguments) == 3 else (0, 1)
    results = work / "results.jsonl"
    results.parent.mkdir(parents=True, exist_ok=True)
    for queue in range(QUEUES):
        for line in range(first, LINES, step):
            if not any((row["line"], row["queue"]) == (line, queue) for row in read_rows(results)):
                row = play_queue(prepare_line(work, line), work, line, queue)
                with results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                sys.stderr.write(f"{row}\n")
    if step > 1:
        return 0
    rows = read_rows(results)
    write_page(rows)
    return 0 if sum(row["promoted"] for row in rows) >= 0.95 * len(rows) else 1


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the results so far."""
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def prepare_line(work: Path, line: int) -> Workspace:
    """Return a workspace that was trained on images of line number ``line``, made if it is not there."""
    root = work / f"line{line}"
    home = Workspace(root)
    if home.models_store.exists() and Registry(home.models_store).pointer().champion:
        return home
    shutil.rmtree(root, ignore_errors=True)
    home = init_workspace(root)
    set_params(home.params, SETTINGS)
    render_folder(home.state / "line", SteelLine.default(), PER_CLASS, seed=line)
    report = run_flow(home, "train", data=home.state / "line")
    if not report.promoted:
        raise RuntimeError(f"the first version of line {line} was not promoted: {report.reason}")
    return home


def play_queue(trained: Workspace, work: Path, line: int, queue: int) -> dict[str, Any]:
    """Let one copy of a trained line drift, close the loop, and return what came of it."""
    root = work / f"playing{line}"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(trained.root, root, symlinks=True)
    home, started = Workspace(root), time.perf_counter()
    champion = str(Registry(home.models_store).pointer().champion)
    port = free_port()
    service = start_service(root, port, log=home.logs / "endpoint.log", settings=endpoint_settings(home))
    seed = FIRST_SEED + QUEUE_STRIDE * (1 + queue + QUEUES * line)
    plant = Plant(f"http://127.0.0.1:{port}", SteelLine.default(), seed=seed, is_running=lambda: service.poll() is None)
    row: dict[str, Any] = {"line": line, "queue": queue, "promoted": False, "labels": 0, "looks": 0}
    try:
        plant.await_version(champion)
        row["before"] = plant.send(20)
        plant.line = DRIFTED
        row["drifted"] = plant.send(40)
        closed = close_loop(home, plant, lambda since: run_flow(home, "retrain"), lambda text: None)
        row |= {"promoted": closed.promoted, "labels": closed.labels, "looks": closed.judgement.look}
        row["reason"] = closed.judgement.reason
        if closed.promoted:
            plant.await_version(closed.judgement.version)
            row["after"] = plant.send(20)
            plant.line = SteelLine.default()
            row["old line"] = plant.send(20)
    except LoopStuck as error:
        row["reason"] = str(error)
    finally:
        stop_service(service)
    return row | {"seconds": round(time.perf_counter() - started, 1)}


def write_page(rows: list[dict[str, Any]]) -> None:
    """Write ``docs/benchmarks/retrainings.md``."""
    promoted = [row for row in rows if row["promoted"]]
    low, high = wilson_interval(len(promoted), len(rows))
    labels = np.array([row["labels"] for row in promoted])
    looks = [sum(row["looks"] == look for row in promoted) for look in range(1, 6)]
    lines = [
        "# Retrainings over seeds of the line and of the queue",
        "",
        f"`python -m benchmarks retrainings`: {LINES} rendered lines, {QUEUES} stretches of production each, every one",
        "with the demo's settings: train, serve, change lamp and camera, label what the watch asks for, retrain,",
        "judge; undecided challengers ask for more random labels and are judged again.",
        "",
        *describe_machine(),
        "",
        f"**{len(promoted)} of {len(rows)} ended promoted** (95 % interval {low:.2f} to {high:.2f}).",
        f"Labels: median {np.median(labels):.0f}, 90 % at most {np.quantile(labels, 0.9):.0f}, most {labels.max()}.",
        f"Looks of the gate until the promotion: {', '.join(f'{n} at look {i}' for i, n in enumerate(looks, 1) if n)}.",
        "",
        "| accuracy over HTTP | mean | lowest | highest |",
        "| --- | --- | --- | --- |",
        *(_row(name, [row[name] for row in promoted]) for name in ("before", "drifted", "after", "old line")),
        "",
        *(f"Not promoted: line {row['line']}, queue {row['queue']}, {row['labels']} labels: {row['reason']}"
          for row in rows if not row["promoted"]),
    ]  # fmt: skip
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text("\n".join(lines).rstrip() + "\n")


def _row(name: str, values: list[float]) -> str:
    return f"| {name} | {np.mean(values):.3f} | {min(values):.3f} | {max(values):.3f} |"
