"""The main job on real images: accuracy, seconds, cached reruns, and the endpoint against the report."""

import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.machine import describe_machine
from regraft.flows.server.stack import free_port
from regraft.serving.process.process import start_service, stop_service, wait_ready
from regraft.tasks.workspace.workspace import Workspace

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks" / "main-job.md"
DATASETS = {"neu": 0.97, "hymenoptera": 0.90, "mednist": 0.99}
"""Test accuracy that each data set is expected to reach."""
BIN = Path(sys.executable).parent
ASKED = 60
"""Test images of each data set that are sent over HTTP."""


def measure_main_job(names: list[str], shared: Path = ROOT.parent / "shared") -> int:
    """Run the main job on the named data sets (all when empty), write the page, return the exit code."""
    if not (shared / "datasets").is_dir():
        sys.stderr.write(f"{shared} has no data sets: nothing was measured\n")
        return 2
    rows = [measure_dataset(name, shared) for name in names or DATASETS]
    write_page(rows)
    return 0 if all(row["accuracy"] >= DATASETS[row["data set"]] for row in rows) else 1


def measure_dataset(name: str, shared: Path) -> dict[str, Any]:
    """Train twice on one data set and ask the endpoint; return one row of figures."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "w"
        subprocess.run([BIN / "regraft", "init", root], check=True, stdout=subprocess.DEVNULL)
        arguments = ["--workspace", root, "--data", shared / "datasets" / name, "--backbones", shared / "backbones"]
        first, seconds = run_train(arguments)
        second, again = run_train(arguments)
        repro = subprocess.run([BIN / "dvc", "status"], cwd=root, capture_output=True, text=True, check=True)
        test = first["metrics"]["test"]
        return {
            "data set": name,
            "backbone": first["backbone"],
            "decision": first["decision"],
            "n": test["n"],
            "accuracy": test["accuracy"],
            "interval": f"{test['accuracy_low']:.3f} to {test['accuracy_high']:.3f}",
            "balanced": test["balanced_accuracy"],
            "seconds": seconds,
            "again": again,
            "again states": sorted({run["state"] for run in second["stages"]}),
            "dvc status": repro.stdout.strip().splitlines()[-1],
            "onnx": first["parity"]["max_abs_diff"],
            "http": compare_endpoint(Workspace(root)),
            "stages": first["stages"],
        }


def run_train(arguments: list[Any]) -> tuple[dict[str, Any], float]:
    """Return what ``regraft train --json`` answered and how many seconds the whole process took."""
    started = time.perf_counter()
    command = [BIN / "regraft", "train", *arguments, "--json"]
    result = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout), time.perf_counter() - started


def compare_endpoint(home: Workspace) -> float:
    """Return the largest difference between probabilities over HTTP and those of the evaluation."""
    import pandas as pd

    from regraft.data.dataset.shards import read_images

    with (home.evaluation / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[:ASKED]
    labels = sorted(pd.read_parquet(home.split)["label"].unique())
    port = free_port()
    service = start_service(home.root, port, log=home.logs / "endpoint.log")
    try:
        wait_ready(f"http://127.0.0.1:{port}", 60)
        worst = 0.0
        for row, image in zip(rows, read_images(home.dataset, [row["sha256"] for row in rows]), strict=True):
            reply = httpx.post(f"http://127.0.0.1:{port}/predict", files={"image": ("x", image)}, timeout=30)
            answers = np.array([reply.json()["probabilities"][label] for label in labels])
            worst = max(worst, float(np.abs(answers - [float(row[f"p_{label}"]) for label in labels]).max()))
        return worst
    finally:
        stop_service(service)


def write_page(rows: list[dict[str, Any]]) -> None:
    """Write ``docs/benchmarks/main-job.md``."""
    lines = [
        "# The main job on real images",
        "",
        "`make bench`: for each data set a new workspace, `regraft train --data .. --backbones .. --json` twice, then",
        f"the endpoint is asked for {ASKED} test images. Six backbones in the mirror and the embedded one are",
        "candidates; every parameter has its default. Seconds are those of the whole process. Intervals are 95 %.",
        "",
        *describe_machine(),
        "",
        *tabulate(rows, list_scores),
        "",
        *tabulate(rows, list_checks),
        "",
        "Seconds of each stage in the first run:",
        "",
        *tabulate(rows, list_seconds),
    ]
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text("\n".join(lines) + "\n")


def tabulate(rows: list[dict[str, Any]], columns: Callable[[dict[str, Any]], dict[str, str]]) -> list[str]:
    """Return a Markdown table: one line per row, the columns as ``columns`` names and writes them."""
    cells = [columns(row) for row in rows]
    header = list(cells[0])
    body = [f"| {' | '.join(cell.values())} |" for cell in cells]
    return [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}", *body]


def list_scores(row: dict[str, Any]) -> dict[str, str]:
    """Return what was reached and how long it took."""
    return {
        "data set": row["data set"],
        "backbone chosen": row["backbone"],
        "decision": row["decision"],
        "test n": str(row["n"]),
        "accuracy (interval)": f"{row['accuracy']:.4f} ({row['interval']})",
        "balanced": f"{row['balanced']:.4f}",
        "bar": f"{DATASETS[row['data set']]:.2f}",
        "first run s": f"{row['seconds']:.0f}",
        "second run s": f"{row['again']:.0f}, all {', '.join(row['again states'])}",
    }


def list_checks(row: dict[str, Any]) -> dict[str, str]:
    """Return how nearly the three ways to ask agree, and what DVC says."""
    return {
        "data set": row["data set"],
        "ONNX against torch, max abs Δp": f"{row['onnx']:.1e}",
        "HTTP against report, max abs Δp": f"{row['http']:.1e}",
        "`dvc status` after the second run": row["dvc status"],
    }


def list_seconds(row: dict[str, Any]) -> dict[str, str]:
    """Return the seconds of each stage."""
    return {"data set": row["data set"]} | {run["name"]: f"{run['seconds']:.1f}" for run in row["stages"]}
