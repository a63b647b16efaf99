"""What fine-tuning is worth on small sets, and how it should end: the best epoch, the last, their mean, half-way."""

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

import regraft.models.training.loop as loop
from benchmarks.machine import describe_machine
from benchmarks.pictures import draw_parts, open_weights
from regraft.models.compute.device import limit_threads
from regraft.models.compute.snapshots import ResumeFolder
from regraft.models.features.cache import FeatureStore
from regraft.models.heads.data import gather_data
from regraft.models.heads.linear_start import prepare_start
from regraft.models.statistics.merits import measure_lead, rate_hits
from regraft.models.training.batches import score_images
from regraft.models.training.blending import add_to_mean, blend_states, is_averaged
from regraft.models.training.config import FinetuneConfig, make_plan
from regraft.models.training.finetune import build_classifier, open_frozen, train_from
from regraft.models.training.loop import copy_state

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "fine-tuning.md"
SHARED = Path(__file__).resolve().parents[2] / "shared"
WEIGHTS = "mobilenetv2_100.tv_in1k"
CELLS = (("xsdd", 20, 128), ("xsdd", 100, 128), ("hymenoptera", 40, 160), ("hymenoptera", 100, 160), ("neu", 10, 128))
"""Set, labelled images of each class (a fifth of them validates), side in px."""
DEPTHS = {"last half": 0.5, "whole": 0.0}
"""Share of the depth groups that stays frozen."""
DRAWS, EPOCHS, TEST = 3, 12, 400
WAYS = ("best epoch", "last epoch", "mean of the last third", "a quarter", "half-way", "three quarters")
States = dict[str, dict[str, Tensor]]


@contextmanager
def watching_epochs(states: list[dict[str, Tensor]]) -> Iterator[None]:
    """Keep the weights after every epoch."""
    close = loop.close_epoch

    def close_and_keep(run: Any, classifier: Any, setup: Any, lr: float) -> None:
        close(run, classifier, setup, lr)
        states.append(copy_state(classifier))

    loop.close_epoch = close_and_keep
    try:
        yield
    finally:
        loop.close_epoch = close


def list_ends(probe: dict[str, Tensor], epochs: list[dict[str, Tensor]], history: list[dict[str, float]]) -> States:
    """Return the weights of each way to end."""
    mean: dict[str, Tensor] = {}
    for count, state in enumerate(state for number, state in enumerate(epochs, 1) if is_averaged(number, len(epochs))):
        mean = add_to_mean(mean, state, count)
    best = max(range(len(epochs)), key=lambda place: (history[place]["val_accuracy"], -history[place]["val_loss"]))
    blends = {way: blend_states(probe, mean, share) for way, share in zip(WAYS[3:], (0.25, 0.5, 0.75), strict=True)}
    return {"best epoch": epochs[best], "last epoch": epochs[-1], "mean of the last third": mean, **blends}


def run_draw(name: str, labels: int, side: int, seed: int) -> list[dict[str, Any]]:
    """Return for each depth the accuracy of the probe and of each way, whether the rule keeps it, and the seconds."""
    images = draw_parts(SHARED / "datasets" / name, labels, seed, side, TEST)
    backbone, config = open_weights(SHARED / "backbones" / WEIGHTS), FinetuneConfig(seed=seed, device="cpu")
    data, rows = gather_data(images), []
    test = np.flatnonzero(images.parts == "test")
    with limit_threads(config.threads), tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        frozen = open_frozen(backbone, data, config, FeatureStore(None), 96)
        start = prepare_start(frozen, data, len(images.names), ResumeFolder(place / "start", "start"), config.start)
        tuning = config.without_mirrors(start.mirrors).model_copy(update={"stop_s": 1e9})
        for depth, share in DEPTHS.items():
            frozen.release()
            classifier = build_classifier(
                frozen.network, frozen.normalization, start.widths, len(images.names), torch.device("cpu")
            )
            classifier.load_probe(start.probe)
            probe, batch = copy_state(classifier), min(tuning.batch_size, len(data.train))
            steps = max(1, len(data.train) // batch)
            plan = make_plan(classifier, data, side, tuning, torch.device("cpu"), 96)
            plan = replace(
                plan,
                steps=EPOCHS * steps,
                steps_per_epoch=steps,
                frozen_groups=int(plan.groups * share),
                views=0,
                batch_size=batch,
            )
            epochs: list[dict[str, Tensor]] = []
            began = time.perf_counter()
            with watching_epochs(epochs):
                run = train_from(classifier, data, plan, tuning, ResumeFolder(place / depth, depth), None)
            seconds = time.perf_counter() - began
            hits = {}
            for way, state in {"probe": probe, **list_ends(probe, epochs, run.history)}.items():
                classifier.load_state_dict(state)
                held = rate_hits(score_images(classifier, data, data.validation, batch), images.labels[data.validation])
                hits[way] = held, rate_hits(score_images(classifier, data, test, batch), images.labels[test])
            rows.append({"depth": depth, "seconds": seconds, **{way: judge(hits, way) for way in hits}})
    return rows


def judge(hits: dict[str, tuple[np.ndarray, np.ndarray]], way: str) -> dict[str, Any]:
    """Return the test accuracy of a way and whether the validation images would have it kept."""
    lead = measure_lead(hits["probe"][0], hits[way][0])
    return {"test": float(np.mean(hits[way][1])), "kept": lead.value > lead.error}


def say(values: list[float]) -> str:
    """Return mean and 95 % t-interval of differences, in points."""
    array = 100 * np.array(values)
    if len(array) < 2:
        return "" if not len(array) else f"{array[0]:+.1f}"
    reach = student.ppf(0.975, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array))
    return f"{array.mean():+.1f} ({array.mean() - reach:+.1f} to {array.mean() + reach:+.1f})"


def tabulate_way(way: str, rows: list[dict[str, Any]]) -> str:
    """Return what a way gains over the probe: in all runs, in the worst, and where validation would have it kept."""
    gains = [row[way]["test"] - row["probe"]["test"] for row in rows]
    kept = [gain for gain, row in zip(gains, rows, strict=True) if row[way]["kept"]]
    return f"| {way} | {say(gains)} | {100 * min(gains):+.1f} | {len(kept)} of {len(rows)} | {say(kept)} |"


def measure_fine_tuning(arguments: list[str]) -> int:
    """Write the page."""
    if not SHARED.is_dir():
        sys.stderr.write("the real data sets are not beside the checkout\n")
        return 2
    draws, cells, rows = int(arguments[0]) if arguments else DRAWS, [], []
    for name, labels, side in CELLS:
        found = [row for seed in range(draws) for row in run_draw(name, labels, side, seed)]
        rows += found
        for depth in DEPTHS:
            mine = [row for row in found if row["depth"] == depth]
            gains = [say([row[way]["test"] - row["probe"]["test"] for row in mine]) for way in WAYS[:3] + WAYS[4:5]]
            probe = 100 * np.mean([row["probe"]["test"] for row in mine])
            seconds = np.mean([row["seconds"] for row in mine])
            cells.append(f"| {name}, {labels} | {depth} | {probe:.1f} % | {' | '.join(gains)} | {seconds:.0f} |")
            sys.stderr.write(cells[-1] + "\n")
    lines = [
        "# Fine-tuning on small sets",
        "",
        f"`python -m benchmarks fine-tuning`: {WEIGHTS}, {EPOCHS} epochs from the probe on views, {draws} draws, "
        f"up to {TEST} test images. Gains over that probe in points of test accuracy, with 95 % t-intervals over the "
        "runs. Kept: the validation images would have it kept (a lead of more than one standard error).",
        "",
        *describe_machine(),
        "",
        f"All {len(rows)} runs:",
        "",
        "| what is shipped | gain | worst run | kept | gain where kept |",
        "| --- | --- | --- | --- | --- |",
        *[tabulate_way(way, rows) for way in WAYS],
        "",
        "By cell:",
        "",
        "| set, labels a class | trained | probe | best epoch | last epoch | last third | half-way | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *cells,
        "",
    ]
    PAGE.write_text("\n".join(lines))
    sys.stdout.write(PAGE.read_text())
    return 0
