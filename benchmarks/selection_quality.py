"""How much accuracy the choice of a backbone costs: regret of selection, static prior and chance, on two zoos.

Truth is the pipeline's own fine-tuned test accuracy of every candidate, averaged over the label draws of a cell. The
selection sees the training labels of one draw; its regret is the best candidate's truth minus that of its choice.
"""

import json
import logging
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.pictures import load_squares
from benchmarks.zoos import SOURCES, Animal, build_equals, shrink_backbone
from regraft.models.backbones.hub import Backbone
from regraft.models.backbones.network import read_input
from regraft.models.classifier.checkpoint import load_checkpoint
from regraft.models.classifier.predictions import answer_pixels
from regraft.models.heads.data import LabelledImages
from regraft.models.prior.imagenet_accuracy import static_prior
from regraft.models.selection.candidates import sample_rows
from regraft.models.selection.decide import resample_mean
from regraft.models.selection.result import SelectConfig
from regraft.models.selection.select import ImagesOnDemand, SelectionPaths, select_backbone
from regraft.models.training.config import FinetuneConfig
from regraft.models.training.finetune import FinetunePaths, finetune
from regraft.serving.decoding.preprocess import PreprocessSpec
from regraft.serving.files.durable import hash_file

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "benchmarks"
LABELS = (5, 20)
"""Labels a class."""
DRAWS = 4
"""Label draws of a cell."""
MIXED_PX = 96
MAX_TEST = 300
TRUTH_BUDGET_S = 6.0
BARS = {"mean": 0.015, "worst": 0.05, "final": 0.007}
"""Mean and worst regret of the best mean rank, and mean regret of the final choice."""

ABOUT = f"""`python -m benchmarks selection`. Zoo *mixed*: the six public backbones at {MIXED_PX} px. Zoo *equal*: nets
of one architecture and recipe that differ in what they were pretrained on; of eight, the one trained on the
target's own images is left out. {LABELS[0]} and {LABELS[1]} labels a class, {DRAWS} draws of each; at most
{MAX_TEST} test images. Truth: balanced test accuracy of the pipeline's own training (budget {TRUTH_BUDGET_S:g}
counted seconds), mean of the draws. Regret: the best candidate's truth minus the choice's, in points; of a cell
(data set and labels) the mean of its draws; means are of cells, with a 95 % bootstrap interval over them.
*Ranked first*: best mean rank of prior and probe scores. *Finally chosen*: what the selection answers; all
cells have fewer images than a race asks for. *Static prior*: the public ImageNet accuracy, or for the nets of
equal size the accuracy on their own source; candidates it does not know are never its choice. *Random*: the
mean candidate."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One data set with so many labels a class; images are asked for at a side by ``pixels``."""

    name: str
    labels: int
    draw: int
    targets: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def draw_cell(name: str, targets: np.ndarray, labels: int, draw: int) -> Cell:
    """Return rows of a cell: of the labelled images a fifth chooses; up to ``MAX_TEST`` others judge, stratified."""
    generator = np.random.default_rng([draw, labels])
    known = np.concatenate(
        [generator.permutation(np.flatnonzero(targets == label))[:labels] for label in np.unique(targets)]
    )
    held = np.concatenate([known[targets[known] == label][: max(1, labels // 5)] for label in np.unique(targets)])
    test = sample_rows(targets, np.setdiff1d(np.arange(len(targets)), known), MAX_TEST, 0)
    return Cell(name, labels, draw, targets, np.setdiff1d(known, held), np.sort(held), test)


def measure_truth(animal: Animal, pixels: np.ndarray, cell: Cell, adapt_images: int) -> float:
    """Return the balanced test accuracy of the pipeline's own training of one candidate on one cell.

    ``adapt_images`` is what the selection on the same labels says of the candidate's BatchNorm statistics.
    """
    rows = np.concatenate([cell.train, cell.validation])
    parts = np.array(["train"] * len(cell.train) + ["validation"] * len(cell.validation))
    spec = PreprocessSpec(size_px=pixels.shape[1], fit="squash", interpolation="bicubic")
    names = [str(label) for label in np.unique(cell.targets)]
    config = FinetuneConfig(budget_s=TRUTH_BUDGET_S, device="cpu")
    with tempfile.TemporaryDirectory() as scratch:
        into = Path(scratch) / "out"
        finetune(
            describe_backbone(animal), LabelledImages(pixels[rows], cell.targets[rows], parts, names), spec, config,
            FinetunePaths(into, Path(scratch) / "state"), adapt_images=adapt_images,
        )  # fmt: skip
        classifier, _ = load_checkpoint(into)
        said = answer_pixels(classifier, pixels[cell.test])
    return balance(said.probabilities.argmax(axis=1), cell.targets[cell.test])


def balance(said: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean recall of the classes."""
    return float(np.mean([np.mean(said[truth == label] == label) for label in np.unique(truth)]))


def describe_backbone(animal: Animal) -> Backbone:
    """Return the backbone of a zoo as the pipeline knows it."""
    return Backbone(animal.folder.name, animal.folder, hash_file(animal.folder / "model.safetensors"), "", "", 0)


def choose(zoo: Mapping[str, Animal], pixels: np.ndarray, cell: Cell) -> dict[str, Any]:
    """Return what the selection chooses on the labels of a cell: by the mean rank alone, and finally."""
    names = sorted(zoo)
    with tempfile.TemporaryDirectory() as scratch:
        mirror = Path(scratch) / "mirror"
        mirror.mkdir()
        for name in names:
            (mirror / name).symlink_to(zoo[name].folder)
        config = SelectConfig(candidates=names, mirror=str(mirror), fit="squash", device="cpu")
        rows = np.concatenate([cell.train, cell.validation])
        began = time.perf_counter()
        images = ImagesOnDemand(
            lambda _, chosen: pixels[rows[chosen]],
            cell.targets[rows],
            np.array(["train"] * len(rows)),
            np.full((len(rows), 2), pixels.shape[1]),
        )
        kept = Path(scratch)
        paths = SelectionPaths(kept / "store", kept / "lock.json", kept / "features")
        selection, _ = select_backbone(images, config, paths)
    return {
        "first": selection.ranking[0].name,
        "final": selection.chosen,
        "seconds": time.perf_counter() - began,
        "adapt": {row.name: row.adapt_images for row in selection.ranking},
    }


def measure_zoo(name: str, zoo: Mapping[str, Animal], shared: Path, size_px: int) -> list[dict[str, Any]]:
    """Return one row for each cell and draw of a zoo."""
    rows = []
    for data in SOURCES:
        pixels, targets = load_squares(shared / "datasets" / data, size_px)
        own = {key: animal for key, animal in zoo.items() if animal.source != data}
        for labels in LABELS:
            cells = [draw_cell(data, targets, labels, draw) for draw in range(DRAWS)]
            choices = [choose(own, pixels, cell) for cell in cells]
            tried = {
                key: [
                    measure_truth(animal, pixels, cell, chosen["adapt"][key])
                    for cell, chosen in zip(cells, choices, strict=True)
                ]
                for key, animal in own.items()
            }
            for cell, chosen in zip(cells, choices, strict=True):
                rows.append(judge_cell(name, own, cell, chosen, tried))
                sys.stderr.write(json.dumps(rows[-1]) + "\n")
    return rows


def judge_cell(
    zoo_name: str,
    zoo: Mapping[str, Animal],
    cell: Cell,
    chosen: Mapping[str, Any],
    tried: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    """Return the regret of every chooser on one cell and draw; ``tried`` holds each candidate's accuracy by draw."""
    truth = {key: float(np.mean(values)) for key, values in tried.items()}
    best = max(truth.values())
    known = {key: animal.prior for key, animal in zoo.items() if animal.prior is not None}
    # Of candidates that the list knows equally well one is as good as the other: their mean.
    top = [key for key, value in known.items() if value == max(known.values())]
    return {
        "zoo": zoo_name,
        "data": cell.name,
        "labels": cell.labels,
        "draw": cell.draw,
        "truth": {key: round(value, 4) for key, value in truth.items()},
        "chosen": chosen["final"],
        "ranked first": chosen["first"],
        "seconds": chosen["seconds"],
        "first": best - truth[chosen["first"]],
        "final": best - truth[chosen["final"]],
        "prior": best - float(np.mean([truth[key] for key in top])),
        "random": best - float(np.mean(list(truth.values()))),
    }


def measure_selection(names: list[str], shared: Path = ROOT.parent / "shared") -> int:
    """Measure the named zoos ("mixed", "equal"; both when empty), write a page for each, return the exit code."""
    fine = True
    for name in names or ["mixed", "equal"]:
        with tempfile.TemporaryDirectory() as scratch:
            zoo = gather_zoo(name, shared, Path(scratch))
            size_px = read_input(next(iter(zoo.values())).folder).size_px
            rows = measure_zoo(name, zoo, shared, size_px)
        write_page(name, rows)
        fine = fine and meets_bars(rows)
    return 0 if fine else 1


def gather_zoo(name: str, shared: Path, into: Path) -> dict[str, Animal]:
    """Return the candidates of the zoo ``name``, "mixed" or "equal"."""
    if name == "equal":
        return build_equals(shared / "datasets", into)
    zoo = {}
    for folder in sorted(path for path in (shared / "backbones").iterdir() if path.is_dir()):
        entry = static_prior(folder.name)
        zoo[folder.name] = Animal(shrink_backbone(folder, into, MIXED_PX), entry.accuracy if entry else None, None)
    return zoo


def meets_bars(rows: list[dict[str, Any]]) -> bool:
    """Say whether a zoo's regrets are within the bars."""
    first, final = (float(np.mean(average_cells(rows, key))) for key in ("first", "final"))
    worst = max(row["first"] for row in rows)
    return first <= BARS["mean"] and worst <= BARS["worst"] and final <= BARS["final"]


def average_cells(rows: list[dict[str, Any]], key: str) -> list[float]:
    """Return the mean over the draws of each cell."""
    cells: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        cells.setdefault((row["data"], row["labels"]), []).append(row[key])
    return [float(np.mean(values)) for values in cells.values()]


def write_page(zoo: str, rows: list[dict[str, Any]]) -> None:
    """Write ``docs/benchmarks/selection-<zoo>.md``."""
    lines = [
        f"# Choosing the backbone: zoo {zoo}",
        "",
        *textwrap.wrap(ABOUT, 118),
        "",
        *describe_machine(),
        "",
        "| chooser | mean regret | 95 % interval | worst cell | worst single draw |",
        "| --- | --- | --- | --- | --- |",
    ]
    choosers = {"ranked first": "first", "finally chosen": "final", "static prior": "prior", "random": "random"}
    for label, key in choosers.items():
        cells = [100 * mean for mean in average_cells(rows, key)]
        low, high = resample_mean(np.array(cells), 0)
        worst = max(100 * row[key] for row in rows)
        lines.append(f"| {label} | {np.mean(cells):.2f} | {low:.2f} to {high:.2f} | {max(cells):.2f} | {worst:.2f} |")
    lines += ["", *tabulate_cells(rows)]
    PAGES.mkdir(parents=True, exist_ok=True)
    (PAGES / f"selection-{zoo}.md").write_text("\n".join(lines) + "\n")


def tabulate_cells(rows: list[dict[str, Any]]) -> list[str]:
    """Return a table of every cell and draw."""
    lines = [
        "| data | labels | draw | best truth | chosen | regret | ranked first | prior | random | selection, s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        regrets = [f"{100 * row[key]:.2f}" for key in ("final", "first", "prior", "random")]
        lines.append(
            f"| {row['data']} | {row['labels']} | {row['draw']} | "
            f"{100 * max(row['truth'].values()):.1f} | {row['chosen']} | {' | '.join(regrets)} | {row['seconds']:.1f} |"
        )
    return lines
