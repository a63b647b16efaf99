"""What fine-tuning is worth on small sets, and how it should end: the best epoch, the last, their mean, half-way."""

import json
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
from torch import Tensor

import regraft.models.training.loop as loop
from benchmarks.few_labels import summarise
from benchmarks.machine import describe_machine
from benchmarks.pictures import draw_parts, open_weights
from regraft.models.compute.budget import TrainingPlan
from regraft.models.compute.device import limit_threads
from regraft.models.compute.snapshots import ResumeFolder
from regraft.models.features.cache import FeatureStore
from regraft.models.heads.data import gather_data
from regraft.models.heads.linear_start import prepare_start
from regraft.models.statistics.merits import rate_hits
from regraft.models.training.batches import score_images
from regraft.models.training.blending import add_to_mean, blend_states, is_averaged
from regraft.models.training.config import FinetuneConfig, make_plan
from regraft.models.training.finetune import build_classifier, open_frozen, train_from
from regraft.models.training.loop import copy_state
from regraft.models.training.model_choice import choose_weights

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "fine-tuning.md"
SHARED = Path(__file__).resolve().parents[2] / "shared"
WEIGHTS = "mobilenetv2_100.tv_in1k"
CELLS = (("xsdd", 20, 128), ("xsdd", 100, 128), ("hymenoptera", 40, 160), ("hymenoptera", 100, 160), ("neu", 10, 128))
"""Set, labelled images of each class (a fifth of them validates), side in px."""
DEPTHS = {"last half": 0.5, "whole": 0.0}
"""Share of the depth groups that stays frozen."""
DRAWS, EPOCHS, TEST = 3, 12, 400
WAYS = ("best epoch", "last epoch", "mean of the last third", "a quarter", "half-way", "three quarters")
LITTLE = 1.0
"""Points of accuracy below which a gain is called little."""
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
    """Return for each depth the probe's test accuracy, the gain of each way over it, if it is kept, and the seconds."""
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
            ends = {way: judge(hits, way, plan) for way in WAYS}
            rows.append({"cell": f"{name}, {labels}", "draw": seed, "depth": depth, "seconds": seconds, **ends})
            rows[-1]["probe"] = float(np.mean(hits["probe"][1]))
    return rows


def judge(hits: dict[str, tuple[np.ndarray, np.ndarray]], way: str, plan: TrainingPlan) -> dict[str, Any]:
    """Return the gain of a way over the probe on the test images, and whether the validation images have it kept."""
    choice = choose_weights({"probe": hits["probe"][0], "finetuned": hits[way][0]}, plan)
    gain = np.mean(hits[way][1]) - np.mean(hits["probe"][1])
    return {"gain": float(gain), "kept": choice.kept == "finetuned"}


def average_draws(rows: list[dict[str, Any]], way: str) -> list[float]:
    """Return the gain of a way in each draw of each cell, in points: two depths share its images, so they are one."""
    draws: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        draws.setdefault((row["cell"], row["draw"]), []).append(100 * row[way]["gain"])
    return [float(np.mean(gains)) for gains in draws.values()]


def say(values: list[float]) -> str:
    """Return mean and 95 % t-interval over draws."""
    if len(values) < 2:
        return f"{values[0]:+.1f} (one draw)" if values else "never"
    mean, reach = summarise(values)
    return f"{mean:+.1f} ({mean - reach:+.1f} to {mean + reach:+.1f})"


def tabulate_way(way: str, rows: list[dict[str, Any]]) -> str:
    """Return what a way gains over the probe: in all runs, in the worst, and where validation would have it kept."""
    kept = [row for row in rows if row[way]["kept"]]
    worst = min(100 * row[way]["gain"] for row in rows)
    shipped = [row if row[way]["kept"] else row | {way: {"gain": 0.0}} for row in rows]
    return (
        f"| {way} | {say(average_draws(rows, way))} | {worst:+.1f} | {len(kept)} of {len(rows)} | "
        f"{say(average_draws(kept, way))} | {say(average_draws(shipped, way))} |"
    )


def tabulate_cell(cell: str, depth: str, rows: list[dict[str, Any]]) -> str:
    """Return the row of one set, size and depth."""
    own = [row for row in rows if (row["cell"], row["depth"]) == (cell, depth)]
    gains = " | ".join(say(average_draws(own, way)) for way in WAYS)
    probe, seconds = (float(np.mean([row[name] for row in own])) for name in ("probe", "seconds"))
    return f"| {cell} | {depth} | {100 * probe:.1f} % | {gains} | {seconds:.0f} |"


def conclude(rows: list[dict[str, Any]]) -> str:
    """Return in words what the best of the ways gains, and how much that is worth saying."""
    mean, reach, way = max((*summarise(average_draws(rows, way)), way) for way in WAYS)
    told = "cannot be told from 0" if mean - reach <= 0 else "is above 0 even so"
    little = "**Fine-tuning gains little here.** " if mean < LITTLE else ""
    best = f"The best of {len(WAYS)} ways to end, {way}, gains {mean:+.1f} points"
    return f"{little}{best}; picked by hindsight, it {told}."


def measure_fine_tuning(arguments: list[str]) -> int:
    """Write the page, from as many draws as the argument says."""
    if not SHARED.is_dir():
        sys.stderr.write("the real data sets are not beside the checkout\n")
        return 2
    rows = []
    for seed in range(int(arguments[0]) if arguments else DRAWS):
        for name, labels, side in CELLS:
            rows += run_draw(name, labels, side, seed)
            sys.stderr.write(f"{json.dumps(rows[-2:])}\n")
    write_page(rows)
    return 0


def write_page(rows: list[dict[str, Any]]) -> None:
    """Write ``docs/benchmarks/fine-tuning.md``."""
    cells = dict.fromkeys(row["cell"] for row in rows)
    lines = [
        "# Fine-tuning on small sets",
        "",
        f"`python -m benchmarks fine-tuning`: {WEIGHTS}, {EPOCHS} epochs from the linear probe that a run starts from, "
        f"{len({row['draw'] for row in rows})} draws, up to {TEST} test images; xsdd and neu at 128 px, hymenoptera "
        "at 160. Of the labelled images a fifth validates. The probe is fitted on the rest, as fine-tuning is; one "
        "that is kept learns the validation images too, so the gains here are, if anything, too high.",
        "",
        *describe_machine(),
        "",
        "Gains over the probe are points of test accuracy, with 95 % t-intervals over draws, in which both depths "
        "count as one: they share their images. Draws of one set overlap, so the intervals are somewhat narrow. "
        "Blends are of the probe's weights with the mean of the last third. Kept: by the rule of a run, a lead on the "
        "validation images of more than one standard error. Shipped: the gain where it is kept, 0 elsewhere.",
        "",
        conclude(rows),
        "",
        "| how it ends | gain | worst run | kept | gain where kept | gain as shipped |",
        "| --- | --- | --- | --- | --- | --- |",
        *[tabulate_way(way, rows) for way in WAYS],
        "",
        "By set and labels a class; seconds are of training alone:",
        "",
        f"| set, labels | trained | probe | {' | '.join(WAYS)} | seconds |",
        f"| --- | --- | --- | {' | '.join('---' for _ in WAYS)} | --- |",
        *[tabulate_cell(cell, depth, rows) for cell in cells for depth in DEPTHS],
        "",
    ]
    PAGE.write_text("\n".join(lines))
