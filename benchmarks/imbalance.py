"""Rare classes: what weights in the loss and logit adjustment are worth, and what ``auto`` takes."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.stats import t as student

from benchmarks.machine import describe_machine
from benchmarks.pictures import list_pictures, open_weights
from regraft.models.features.cache import FeatureStore, FrozenBackbone
from regraft.models.features.linear_probe import cross_validate, fit_probe
from regraft.models.heads.imbalance import judge_imbalance, list_offsets

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "imbalance.md"
SHARED = Path(__file__).resolve().parents[2] / "shared"
WEIGHTS = "mobilenetv2_100.tv_in1k"
SIDE_PX = 128
DRAWS = 5
LARGEST, RATIO = 200, 50
FEWEST_TEST, MOST_TEST = 20, 100
"""Test images of a class: so many at least, so that a recall means something, and at most."""
Counts = Callable[[np.ndarray, np.random.Generator], list[int]]
CELLS: dict[str, tuple[str, Counts]] = {
    "xsdd as it is": ("xsdd", lambda sizes, rng: [int(0.6 * size) for size in sizes]),
    "neu, a long tail of 50 to 1": ("neu", lambda sizes, rng: thin_tail(len(sizes), rng)),
    "neu, one class of 4 among 200": ("neu", lambda sizes, rng: thin_one(len(sizes), rng)),
}
WAYS = ("plain", "weights to the power of a half", "weights 1/n (a balanced sampler)", "logit adjustment", "auto")
FIGURES = ("worst recall", "balanced accuracy", "accuracy of the training mix")


def thin_tail(classes: int, rng: np.random.Generator) -> list[int]:
    """Return class sizes that fall geometrically, in a drawn order."""
    sizes = np.round(LARGEST * float(RATIO) ** (-np.arange(classes) / (classes - 1))).astype(int)
    return [int(size) for size in rng.permutation(sizes)]


def thin_one(classes: int, rng: np.random.Generator) -> list[int]:
    """Return class sizes that are alike but for one, which is drawn."""
    rare = int(rng.integers(classes))
    return [LARGEST // RATIO if number == rare else LARGEST for number in range(classes)]


def embed_set(name: str, store: Path) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Return features ``(N, D)``, labels and block widths of a shared set."""
    paths = sorted(list_pictures(SHARED / "datasets" / name)[0])
    names = sorted({path.parent.name for path in paths})
    pixels = np.stack(
        [
            np.asarray(Image.open(path).convert("RGB").resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC))
            for path in paths
        ]
    )
    backbone = open_weights(SHARED / "backbones" / WEIGHTS)
    found = FrozenBackbone(backbone, pixels, adapt_images=0, store=FeatureStore(store)).embed(pixels)
    return found.values, np.array([names.index(path.parent.name) for path in paths]), found.widths


def draw_rows(labels: np.ndarray, counts: list[int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return training rows, ``counts`` of each class, and test rows, of each class what is left up to a bound."""
    train, test = [], []
    for label, count in enumerate(counts):
        rows = rng.permutation(np.flatnonzero(labels == label))
        train.append(rows[:count])
        test.append(rows[count:][: max(FEWEST_TEST, min(MOST_TEST, len(rows) - count))])
    return np.concatenate(train), np.concatenate(test)


def rate(logits: np.ndarray, truth: np.ndarray, shares: np.ndarray) -> list[float]:
    """Return worst recall, balanced accuracy, and accuracy where the classes have ``shares`` ``(K,)`` of the images."""
    hits = logits.argmax(axis=1) == truth
    recalls = np.array([hits[truth == label].mean() for label in range(len(shares))])
    return [float(recalls.min()), float(recalls.mean()), float(shares @ recalls)]


def run_draw(cell: tuple[np.ndarray, np.ndarray, tuple[int, ...]], counts_for: Counts, seed: int) -> dict[str, list]:
    """Return the figures of each way on one draw."""
    features, labels, widths = cell
    rng = np.random.default_rng(seed)
    train, test = draw_rows(labels, counts_for(np.bincount(labels), rng), rng)
    classes, known, truth = int(labels.max()) + 1, labels[train], labels[test]
    shares, offsets = np.bincount(known, minlength=classes) / len(known), list_offsets(known, classes)
    figures, answers, out_of_fold = {}, np.empty(0), np.empty(0)
    for way, power in zip(WAYS[:3], (0.0, 0.5, 1.0), strict=True):
        setting = {"classes": classes, "widths": widths, "rare_weight": power}
        found = cross_validate(features[train], known, **setting)
        logits = fit_probe(features[train], known, c=found.c, **setting).score(features[test])
        figures[way] = rate(logits, truth, shares)
        if power == 0:
            answers, out_of_fold = logits, found.logits
    taken = judge_imbalance(out_of_fold, known, classes, "auto").way == "logit_adjustment"
    figures["logit adjustment"] = rate(answers - offsets, truth, shares)
    figures["auto"] = figures["logit adjustment" if taken else "plain"]
    return figures | {"taken": [float(taken)]}


def say_gain(values: np.ndarray) -> str:
    """Return mean and 95 % t-interval of differences, in points."""
    reach = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{100 * values.mean():+.1f} ({100 * (values.mean() - reach):+.1f} to {100 * (values.mean() + reach):+.1f})"


def tabulate(name: str, draws: list[dict[str, list]]) -> list[str]:
    """Return the table of one cell."""
    head = "".join(f" {figure} | gain |" for figure in FIGURES)
    lines = [f"## {name}", "", f"| way |{head}", "| --- |" + " --- | --- |" * len(FIGURES)]
    plain = np.array([draw["plain"] for draw in draws])
    for way in WAYS:
        values = np.array([draw[way] for draw in draws])
        gains = ["" if way == "plain" else say_gain(column) for column in (values - plain).T]
        cells = [f" {100 * mean:.1f} % | {gain} |" for mean, gain in zip(values.mean(axis=0), gains, strict=True)]
        lines.append(f"| {way} |{''.join(cells)}")
    taken = sum(int(draw["taken"][0]) for draw in draws)
    return [*lines, "", f"`auto` adjusted in {taken} of {len(draws)} draws.", ""]


def measure_imbalance(_: list[str]) -> int:
    """Write the page; exit code 1 if ``auto`` misses the bar on one cell."""
    if not SHARED.is_dir():
        sys.stderr.write("the real data sets are not beside the checkout\n")
        return 2
    tables, met = [], []
    with tempfile.TemporaryDirectory() as scratch:
        embedded = {name: embed_set(name, Path(scratch)) for name in sorted({cell[0] for cell in CELLS.values()})}
        for name, (source, counts_for) in CELLS.items():
            draws = [run_draw(embedded[source], counts_for, seed) for seed in range(DRAWS)]
            tables += tabulate(name, draws)
            gains = np.mean([np.subtract(draw["auto"], draw["plain"]) for draw in draws], axis=0)
            met.append(bool(gains[0] >= 0.05 and gains[2] >= -0.01))
    said = ", ".join(f"{name}: {'yes' if each else 'no'}" for name, each in zip(CELLS, met, strict=True))
    lines = [
        "# Rare classes",
        "",
        f"`python -m benchmarks imbalance`: a linear head on {WEIGHTS} at {SIDE_PX} px, {DRAWS} draws of the training "
        f"images; {FEWEST_TEST} to {MOST_TEST} test images of every class. Gains over plain in points, with 95 % "
        "t-intervals over the draws.",
        "",
        *describe_machine(),
        "",
        f"Bar: the worst class gains 5 points at a cost of at most one over all images: met on **{sum(met)} of "
        f"{len(met)}** ({said}).",
        "",
        *tables,
    ]
    PAGE.write_text("\n".join(lines))
    sys.stdout.write(PAGE.read_text())
    return 0 if all(met) else 1
