"""Wall time to a peer's accuracy: fastai's ``fine_tune``, the plain timm loop, and regraft, on the same images."""

import json
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.peers.problem import Problem
from benchmarks.peers.runner import PEERS, run_peer
from benchmarks.pictures import list_pictures

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks" / "speed.md"
DATASETS = ("neu", "xsdd")
BACKBONE = "mobilenetv2_100.goog_in1k"
SLACK = 0.005
"""Accuracy that we may lack of the peer's when our clock is read."""
BAR = 5.0
ABOUT = f"""`python -m benchmarks speed`. Backbone {BACKBONE} at 224 px, four fifths of the images to learn from
(regraft keeps 15 % of them for choosing), the rest asked with the clock stopped. Two threads each; the
peers have two loading workers besides. Peers run with their own usual recipe in an environment of their
own. The rule is the same for all: seconds, imports and decoding included, until the model had the
peer's final test accuracy less half a point, looked at after every epoch (ours also at the probe). It
is the time of somebody who knew when to stop; whole recipes take longer. Where one answer of ours is
listed below it is the linear head's, before any fine-tuning. One seed, one split."""


def write_problem(images: Path, backbone: Path, into: Path, seed: int = 0) -> Path:
    """Write the training job of one data set and return its file."""
    files, _ = list_pictures(images)
    labels = [path.parent.name for path in files]
    generator, test = np.random.default_rng(seed), set()
    for label in sorted(set(labels)):
        own = [place for place, name in enumerate(labels) if name == label]
        test |= set(generator.permutation(own)[: len(own) // 5].tolist())
    train = [place for place in range(len(files)) if place not in test]
    problem = Problem(
        train_images=[str(files[place].resolve()) for place in train],
        train_labels=[labels[place] for place in train],
        test_images=[str(files[place].resolve()) for place in sorted(test)],
        test_labels=[labels[place] for place in sorted(test)],
        backbone=str(backbone.resolve()),
        evaluate_epochs=True,
    )
    return problem.write(into)


def run_ours(problem: Path, wanted: float) -> dict[str, Any]:
    """Return regraft's answer, from a process of its own that ends at the accuracy ``wanted``."""
    command = [sys.executable, "-m", "benchmarks.peers.ours_run", str(problem), str(wanted)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"our run ended with {result.returncode}: {result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def find_time(answers: list[dict[str, float]], wanted: float) -> float | None:
    """Return the seconds at which the accuracy was first at least ``wanted``; None if it never was."""
    return next((answer["seconds"] for answer in answers if answer["test_accuracy"] >= wanted), None)


def find_peer_time(theirs: dict[str, Any]) -> float:
    """Return the seconds after which the peer itself first had its final accuracy less the slack."""
    ends = theirs["import_s"] + theirs["build_s"] + np.cumsum(theirs["epoch_seconds"])
    told = zip(ends, theirs["epoch_test_accuracy"], strict=True)
    return next(float(end) for end, accuracy in told if accuracy >= theirs["test_accuracy"] - SLACK)


def measure_speed(names: list[str], shared: Path = ROOT.parent / "shared", cache: Path = ROOT / ".cache") -> int:
    """Measure the named data sets (all when empty), write the page, return the exit code."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in names or DATASETS:
            problem = write_problem(
                shared / "datasets" / name, shared / "backbones" / BACKBONE, Path(scratch) / f"{name}.json"
            )
            answers = {peer: run_peer(peer, problem, cache) for peer in PEERS}
            sys.stderr.write(f"{name} {answers}\n")
            ours = run_ours(problem, max(theirs["test_accuracy"] for theirs in answers.values()) - SLACK)
            sys.stderr.write(f"{name} ours {ours}\n")
            for peer, theirs in answers.items():
                reached = find_time(ours["answers"], theirs["test_accuracy"] - SLACK)
                rows.append({"data": name, "peer": peer, "theirs": theirs, "ours": ours, "reached": reached})
    write_page(rows)
    return 0 if all(row["reached"] and find_peer_time(row["theirs"]) / row["reached"] >= BAR for row in rows) else 1


def write_page(rows: list[dict[str, Any]]) -> None:
    """Write ``docs/benchmarks/speed.md``."""
    lines = ["# Speed against peers", "", *textwrap.wrap(ABOUT, 118), "", *describe_machine()]
    for peer in dict.fromkeys(row["peer"] for row in rows):
        theirs = next(row["theirs"] for row in rows if row["peer"] == peer)
        lines.append(f"- {peer}: {theirs.get('versions', '')} {theirs.get('recipe', '')}")
    lines += [
        "",
        "| data set | peer | its accuracy | its whole s | s to half a point less | ours, s | ratio | our accuracy |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        theirs, reached, needed = row["theirs"], row["reached"], find_peer_time(row["theirs"])
        then = next((a["test_accuracy"] for a in row["ours"]["answers"] if a["seconds"] == reached), None)
        ours = f"{reached:.1f} | {needed / reached:.1f} | {then:.4f}" if reached else "never | – | –"
        lines.append(
            f"| {row['data']} | {row['peer']} | {theirs['test_accuracy']:.4f} | {theirs['seconds']:.0f} | "
            f"{needed:.0f} | {ours} |"
        )
    lines += ["", "Ours as it went on:", "", "| data set | seconds: test accuracy |", "| --- | --- |"]
    for data in dict.fromkeys(row["data"] for row in rows):
        ours = next(row["ours"] for row in rows if row["data"] == data)
        told = ", ".join(f"{a['seconds']:.0f}: {a['test_accuracy']:.4f}" for a in ours["answers"])
        lines.append(f"| {data} | {told} ({ours['plan']}) |")
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text("\n".join(lines) + "\n")
