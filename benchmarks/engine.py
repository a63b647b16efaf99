"""What the engine's parts cost: probe, scores, selection against fine-tuning all, training on kept activations."""

import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import describe_machine
from benchmarks.pictures import load_squares
from benchmarks.selection_quality import balance
from regraft.models.backbones.hub import Backbone
from regraft.models.backbones.network import read_input
from regraft.models.compute.budget import TrainingPlan
from regraft.models.compute.device import Compute, deterministic_kernels, limit_threads
from regraft.models.compute.snapshots import ResumeFolder
from regraft.models.features.cache import Features, FeatureStore, FrozenBackbone
from regraft.models.features.linear_probe import CS, cross_validate, fit_probe
from regraft.models.heads.data import LabelledImages, TrainingData
from regraft.models.selection.candidates import describe_preprocess, sample_rows
from regraft.models.selection.result import SelectConfig
from regraft.models.selection.select import ImagesOnDemand, SelectionPaths, select_backbone
from regraft.models.selection.transferability import score_all
from regraft.models.training.batches import score_images
from regraft.models.training.config import FinetuneConfig
from regraft.models.training.finetune import FinetunePaths, build_classifier, finetune, train_from
from regraft.serving.files.durable import hash_file

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks" / "engine.md"
NAME = "mobilenetv2_100.goog_in1k"
SIZE_PX, THREADS = 224, 2
CPU = Compute(device="cpu", threads=THREADS)
EPOCHS, FROZEN, VIEWS, TRAIN, TEST = 8, 13, 4, 320, 400
ABOUT = f"""`python -m benchmarks engine`, on neu with {NAME} at {SIZE_PX} px, {THREADS} threads. Probe and scores
read the kept features of 1,000 images: {len(CS)} penalties, 5 folds. Selection:
`select_backbone` with every default, the six public backbones, 300 of the training images; fine-tuning
everything: `finetune` with every default for each of the six on the same split. Kept activations:
{FROZEN} of 18 depth groups frozen, {EPOCHS} epochs over {TRAIN} images, {VIEWS} views kept, once on
pixels and once on kept activations, from the same probe; accuracy on {TEST} test images. The rate with
filling counts the time in which the views were computed."""


def load_backbone(folder: Path) -> Backbone:
    """Return a backbone folder as the pipeline knows it."""
    return Backbone(folder.name, folder, hash_file(folder / "model.safetensors"), "Apache-2.0", "mirror", 0)


def time_probe(features: Features, labels: np.ndarray) -> dict[str, float]:
    """Return the seconds of the cross-validated probe and of all scores on ``(1000, D)`` features."""
    classes = int(labels.max()) + 1
    began = time.perf_counter()
    cross_validate(features.values, labels, classes=classes, widths=features.widths)
    probe_s = time.perf_counter() - began
    began = time.perf_counter()
    score_all(features.values, labels)
    return {"images": len(labels), "dims": features.values.shape[1], "probe_s": probe_s,
            "scores_s": time.perf_counter() - began}  # fmt: skip


def train_tail(
    backbone: Backbone, pixels: np.ndarray, labels: np.ndarray, test: np.ndarray, views: int, scratch: Path
) -> dict[str, float]:
    """Train the last groups on pixels (``views`` 0) or on kept activations; return images a second and accuracy."""
    train = sample_rows(labels, np.setdiff1d(np.arange(len(labels)), test), TRAIN, 0)
    data = TrainingData(pixels, labels, train, train[:32])
    classes, cpu = int(labels.max()) + 1, torch.device("cpu")
    with limit_threads(THREADS), deterministic_kernels():
        frozen = FrozenBackbone(
            backbone, pixels[train], adapt_images=0, store=FeatureStore(scratch / "features"), compute=CPU
        )
        known = frozen.embed(pixels[train])
        classifier = build_classifier(frozen.network, frozen.normalization, known.widths, classes, cpu)
        classifier.load_probe(fit_probe(known.values, labels[train], classes=classes, c=0.1, widths=known.widths))
        steps = len(train) // 32
        plan = TrainingPlan(EPOCHS * steps, steps, FROZEN, 18, 32, "a benchmark", views)
        resume = ResumeFolder(scratch / f"state-{views}", "benchmark")
        laps: list[float] = []
        began = time.perf_counter()
        train_from(
            classifier, data, plan, FinetuneConfig(device="cpu"), resume, lambda *_: laps.append(time.perf_counter())
        )
        whole = time.perf_counter() - began
        logits = score_images(classifier, TrainingData(pixels, labels, test, test), test, 32)
    settled = laps[VIEWS * steps :]  # every view has been computed by then
    return {
        "images_per_s": 32 * (len(settled) - 1) / (settled[-1] - settled[0]),
        "images_per_s_with_filling": 32 * len(laps) / whole,
        "accuracy": balance(logits.argmax(axis=1), labels[test]),
    }


def compare_costs(shared: Path, pixels: np.ndarray, labels: np.ndarray, scratch: Path) -> dict[str, Any]:
    """Return the seconds of the selection and of fine-tuning every candidate."""
    names = sorted(path.name for path in (shared / "backbones").iterdir() if path.is_dir())
    generator = np.random.default_rng(0)
    parts = generator.choice(["train", "validation", "test"], len(labels), p=[0.65, 0.15, 0.2])
    began = time.perf_counter()
    selection, _ = select_backbone(
        ImagesOnDemand(lambda _, rows: pixels[rows], labels, parts, np.full((len(labels), 2), 200)),
        SelectConfig(candidates=names, mirror=str(shared / "backbones"), device="cpu"),
        SelectionPaths(scratch / "store", scratch / "lock.json", scratch / "kept"),
    )
    select_s = time.perf_counter() - began
    known = np.flatnonzero(parts != "test")
    tuned = {}
    for name in names:
        folder = shared / "backbones" / name
        began = time.perf_counter()
        finetune(
            load_backbone(folder), LabelledImages(pixels[known], labels[known], parts[known], list("012345")),
            describe_preprocess(read_input(folder), "squash"), FinetuneConfig(device="cpu"),
            FinetunePaths(into=scratch / "out", state=scratch / "state"),
        )  # fmt: skip
        tuned[name] = time.perf_counter() - began
        sys.stderr.write(f"{name} fine-tuned in {tuned[name]:.0f} s\n")
    return {"select_s": select_s, "candidates": len(names), "chosen": selection.chosen, "tuned": tuned}


def measure_engine(_names: list[str], shared: Path = ROOT.parent / "shared") -> int:
    """Measure, write the page, return the exit code."""
    backbone = load_backbone(shared / "backbones" / NAME)
    pixels, labels = load_squares(shared / "datasets" / "neu", SIZE_PX)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        rows = sample_rows(labels, np.arange(len(labels)), 1000, 0)
        with limit_threads(THREADS):
            frozen = FrozenBackbone(
                backbone, pixels[rows], adapt_images=0, store=FeatureStore(scratch / "features"), compute=CPU
            )
            costs = time_probe(frozen.embed(pixels[rows]), labels[rows])
        test = sample_rows(labels, np.arange(len(labels)), TEST, 1)
        tails = {views: train_tail(backbone, pixels, labels, test, views, scratch) for views in (0, VIEWS)}
        sys.stderr.write(f"{costs} {tails}\n")
        contest = compare_costs(shared, pixels, labels, scratch)
    write_page(costs, tails, contest)
    faster = tails[VIEWS]["images_per_s"] / tails[0]["images_per_s"]
    share = contest["select_s"] / sum(contest["tuned"].values())
    fine = costs["probe_s"] < 3 and costs["scores_s"] < 2 and faster >= 3 and share <= 0.2
    return 0 if fine and abs(tails[VIEWS]["accuracy"] - tails[0]["accuracy"]) <= 0.005 else 1


def write_page(costs: dict[str, float], tails: dict[int, dict[str, float]], contest: dict[str, Any]) -> None:
    """Write ``docs/benchmarks/engine.md``."""
    plain, kept = tails[0], tails[VIEWS]
    whole = sum(contest["tuned"].values())
    lines = ["# What the engine's parts cost", "", *textwrap.wrap(ABOUT, 118), "", *describe_machine(), ""]
    rate, filled = "images_per_s", "images_per_s_with_filling"
    rows = [
        ("what", "measured", "bar"),
        ("---", "---", "---"),
        (f"probe of {costs['images']} x {costs['dims']} features", f"{costs['probe_s']:.2f} s", "3 s"),
        ("all scores", f"{costs['scores_s']:.2f} s", "2 s"),
        ("selection, a candidate", f"{contest['select_s'] / contest['candidates']:.1f} s", "60 s"),
        (
            f"selection / fine-tuning all {contest['candidates']}",
            f"{contest['select_s']:.0f} s / {whole:.0f} s = {contest['select_s'] / whole:.3f}",
            "0.20",
        ),
        (
            "kept activations / pixels, images a second",
            f"{kept[rate]:.0f} / {plain[rate]:.0f} = {kept[rate] / plain[rate]:.1f}",
            "3",
        ),
        ("the same with filling", f"{kept[filled]:.0f} / {plain[filled]:.0f} = {kept[filled] / plain[filled]:.1f}", ""),
        ("accuracy, kept / pixels", f"{kept['accuracy']:.4f} / {plain['accuracy']:.4f}", "within 0.005"),
    ]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text("\n".join(lines) + "\n")
