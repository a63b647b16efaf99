"""The watch over months: false alarms, what a harmless change costs in labels, how soon a harmful one is found."""

import multiprocessing
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.pictures import load_squares, open_weights
from regraft.data.drift.alarm import Alarm
from regraft.data.drift.audit import judge_audit
from regraft.data.drift.config import WatchConfig
from regraft.data.drift.reference import Answers, Reference, build_reference, widen_reference
from regraft.data.drift.slow_change import find_limit
from regraft.data.drift.verdict import judge_window
from regraft.models.compute.device import limit_threads
from regraft.models.features.cache import FeatureStore, FrozenBackbone
from regraft.models.features.linear_probe import cross_validate, fit_probe
from regraft.models.views.shifts import Shift, shift
from regraft.serving.decoding.quality import measure_quality

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks" / "drift.md"
SHARED = ROOT.parent / "shared"
SETS = {"neu": 128, "mednist": 64}
"""Data set and the side in pixels at which its images are answered."""
TAUGHT = 30
"""Labelled images of each class that the head is fitted on."""
WEIGHTS = ROOT / "models" / "embedded" / "mobilenetv2_100.distilled_v1"
HOURS, SPLITS, WINDOW = 45 * 24, 1, 200
A_MONTH, WIDEST = 720, 10
TRAFFIC = {"independent": 0.0, "bursts, 0.5": 0.5, "bursts, 0.9": 0.9}
"""Chance that an image is followed by one that resembles it."""
REFERENCES = {"neu": (100, 500), "mednist": (100, 1000)}
PLAIN = "the same line"
CHANGES = {
    PLAIN: None,
    "a tenth less light": shift("", "", light=0.9),
    "JPEG files of quality 75": shift("", "", quality=75),
    "a colour cast": shift("", "", warmth=0.1),
    "half the light": shift("", "", light=0.5),
    "a third of the light, out of focus": shift("", "", light=0.35, blur=0.02),
}
UNSEEN = {"a class never seen, a tenth of the images": 0.1, "a class never seen, a fifth of the images": 0.2}
"""Share of images of the last class, which taught nothing and is in no reference; the head cannot name it."""
CASES = 20
"""Times that each change is met."""


@dataclass(frozen=True, slots=True)
class World:
    """Answers to all images of a set that taught nothing, as they are and under each change; N images.

    ``strange`` ``(N,)`` marks those of the class that the head does not know; ``accuracy`` is that on the others.
    """

    name: str
    labels: np.ndarray
    strange: np.ndarray
    embeddings: dict[str, np.ndarray]
    softmax: dict[str, np.ndarray]
    quality: dict[str, np.ndarray]
    accuracy: dict[str, float]


@dataclass(frozen=True, slots=True)
class Traffic:
    """A window as the log would hand it over."""

    probabilities: np.ndarray
    embeddings: np.ndarray
    quality: np.ndarray
    image_sha256: list[str]


@dataclass
class Watch:
    """One version under watch: its state between windows, and what it has asked for."""

    reference: Reference
    config: WatchConfig = field(default_factory=WatchConfig)
    alarm: Alarm = field(default_factory=Alarm)
    known: list[Answers] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def look(self, window: Traffic, right: np.ndarray, rng: np.random.Generator, now: float) -> str:
        """Judge a window; answer the audit it asks for with the truth, ``right`` (M,). Return what became of it."""
        known = widen_reference(self.reference, self.known)
        verdict = judge_window(self.reference, window, self.config, known=known, windows_per_month=A_MONTH)
        self.counts[verdict.decision] += 1
        if verdict.decision == "insufficient":
            return "insufficient"
        was_open = self.alarm.is_open
        limit = find_limit(self.config.count_quiet(A_MONTH))
        self.alarm = self.alarm.advance(verdict, (now, now + 1), now + 1, limit=limit, quiet_windows=3)
        if was_open or not self.alarm.is_open:
            return "quiet"
        self.counts["alarms"] += 1
        return self._audit(window, right, rng)

    def _audit(self, window: Traffic, right: np.ndarray, rng: np.random.Generator) -> str:
        order, asked, config = rng.permutation(len(right)), 0, self.config
        while True:
            hits = int(right[order[:asked]].sum())
            sizes = {"step": config.audit_step, "most": config.audit_most}
            audit = judge_audit(hits, asked - hits, self.reference.accuracy, config.audited_drop, **sizes)
            if audit.outcome != "open":
                break
            asked = audit.wanted
        self.counts["labels"] += asked
        self.counts[audit.outcome] += 1
        self.alarm = self.alarm.settle(audit)
        if audit.outcome == "no harm":
            self.known = [*self.known, Answers(window.embeddings, window.probabilities, window.quality)][-4:]
        return audit.outcome


def make_world(name: str) -> World:
    """Fit a head on a few images of a set and answer all others, as they are and under each change."""
    side = SETS[name]
    pixels, labels = load_squares(SHARED / "datasets" / name, side)
    rng, classes = np.random.default_rng(0), int(labels.max())  # the last one stays unknown
    train = np.concatenate([rng.permutation(np.flatnonzero(labels == each))[:TAUGHT] for each in range(classes)])
    rest = np.setdiff1d(np.arange(len(labels)), train)
    parts: dict[str, dict[str, np.ndarray]] = {"embeddings": {}, "softmax": {}, "quality": {}}
    with limit_threads(2):
        frozen = FrozenBackbone(open_weights(WEIGHTS), pixels, rows=train, adapt_images=96, store=FeatureStore(None))
        taught = frozen.embed(pixels, rows=train)
        c = cross_validate(taught.values, labels[train], classes=classes, widths=taught.widths).c
        probe = fit_probe(taught.values, labels[train], classes=classes, c=c, widths=taught.widths)
        for change, how in CHANGES.items():
            images = pixels[rest] if how is None else _change(how, pixels[rest])
            features = frozen.embed(images).values
            logits = probe.score(features).astype(np.float64)
            chances = np.exp(logits - logits.max(axis=1, keepdims=True))
            parts["embeddings"][change] = features
            parts["softmax"][change] = chances / chances.sum(axis=1, keepdims=True)
            parts["quality"][change] = np.stack([measure_quality(image) for image in images])
    truth = labels[rest]
    strange, said = truth == classes, {change: each.argmax(axis=1) for change, each in parts["softmax"].items()}
    accuracy = {change: float(np.mean((each == truth)[~strange])) for change, each in said.items()}
    accuracy |= {change: (1 - share) * accuracy[PLAIN] for change, share in UNSEEN.items()}
    return World(name, truth, strange, **parts, accuracy=accuracy)


def _change(how: Shift, pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([how.apply(pixels[start : start + 64], [0, start]) for start in range(0, len(pixels), 64)])


def split_world(world: World, size: int, seed: int) -> tuple[Reference, np.ndarray]:
    """Return a reference of ``size`` images and the rows that production draws from; the directions are of others."""
    order = np.random.default_rng(seed).permutation(np.flatnonzero(~world.strange))
    chosen, basis, rest = order[:size], order[size : size + 200], order[size + 200 :]
    arrays = build_reference(
        world.embeddings[PLAIN][chosen],
        world.softmax[PLAIN][chosen],
        world.quality[PLAIN][chosen],
        world.labels[chosen],
        basis=world.embeddings[PLAIN][basis],
    )
    return Reference.of(arrays), rest


def draw_rows(pool: np.ndarray, near: np.ndarray, follow: float, rng: np.random.Generator, count: int) -> np.ndarray:
    """Return ``count`` rows of ``pool``: each is, with chance ``follow``, one that resembles the last, else any.

    Args:
        pool: Rows to draw from, ``(M,)``.
        near: Places in ``pool`` of the images nearest to each of them, ``(M, 20)``.
        follow: 0-1.
        rng: Decides.
        count: Of rows.
    """
    places = [int(rng.integers(len(pool)))]
    for _ in range(count - 1):
        follows = rng.random() < follow
        places.append(int(rng.choice(near[places[-1]])) if follows else int(rng.integers(len(pool))))
    return pool[places]


def find_near(reduced: np.ndarray) -> np.ndarray:
    """Return the places of the 20 rows nearest to each row of ``(M, P)``, itself apart."""
    distances = ((reduced[:, None] - reduced[None]) ** 2).sum(axis=2)
    return np.argsort(distances, axis=1)[:, 1:21]


def take_window(world: World, change: str, rows: np.ndarray, reference: Reference, number: int) -> Traffic:
    """Return the answers to ``rows`` under a change; each counts as an image of its own."""
    embeddings = world.embeddings[change][rows]
    reduced = (embeddings - reference.embedding_mean) @ reference.embedding_components.T
    names = [f"{number}-{place}" for place in range(len(rows))]
    return Traffic(world.softmax[change][rows], reduced, world.quality[change][rows], names)


def replay_months(task: tuple[World, int, str, int]) -> Counter[str]:
    """Return what weeks of hourly windows in which nothing changes have raised."""
    world, size, traffic, seed = task
    reference, pool = split_world(world, size, seed)
    rng, watch = np.random.default_rng([seed, 1]), Watch(reference)
    reduced = (world.embeddings[PLAIN][pool] - reference.embedding_mean) @ reference.embedding_components.T
    near, right = find_near(reduced), world.softmax[PLAIN].argmax(axis=1) == world.labels
    rows = pool[:0]
    with limit_threads(1):
        for hour in range(HOURS):
            new = draw_rows(pool, near, TRAFFIC[traffic], rng, WINDOW)
            # What said too little is looked at again together with what comes next, as the watch does.
            rows = np.concatenate([rows, new])[-WIDEST * WINDOW :]
            outcome = watch.look(take_window(world, PLAIN, rows, reference, hour), right[rows], rng, 3600.0 * hour)
            rows = rows if outcome == "insufficient" else pool[:0]
            if outcome == "harm":  # a person finds nothing and says so
                watch.alarm = watch.alarm.close("")
    return watch.counts


def meet_change(task: tuple[World, int, str, int]) -> Counter[str]:
    """Return what ten windows of a line that has changed have raised, after ten of the line as it was."""
    world, size, change, seed = task
    reference, pool = split_world(world, size, seed)
    rng, watch, found = np.random.default_rng([seed, 2]), Watch(reference), None
    with limit_threads(1):
        for number in range(20):
            changed = number >= 10
            look = change if changed and change in CHANGES else PLAIN
            rows = rng.choice(pool, WINDOW)
            if changed and change in UNSEEN:
                strange = rng.random(WINDOW) < UNSEEN[change]
                rows[strange] = rng.choice(np.flatnonzero(world.strange), int(strange.sum()))
            right = world.softmax[look][rows].argmax(axis=1) == world.labels[rows]
            outcome = watch.look(take_window(world, look, rows, reference, number), right, rng, 3600.0 * number)
            if changed and outcome == "harm":
                found = number - 9
                break
    watch.counts["harm within two windows"] = int(found is not None and found <= 2)
    return watch.counts


def run_all(function: Callable[[tuple], Counter[str]], tasks: list[tuple]) -> Iterator[Counter[str]]:
    """Yield the result of each task, from two processes."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for number, found in enumerate(pool.imap(function, tasks), 1):
            sys.stderr.write(f"\r{function.__name__} {number}/{len(tasks)}")
            yield found
    sys.stderr.write("\n")


def measure_drift(names: list[str]) -> int:
    """Measure the named data sets (all when empty), write the page, return the exit code."""
    if not SHARED.is_dir():
        sys.stderr.write("the real data sets are not beside the checkout\n")
        return 2
    worlds = [make_world(name) for name in names or SETS]
    quiet = [(world, size, kind, seed) for world in worlds for size in REFERENCES[world.name] for kind in TRAFFIC
             for seed in range(SPLITS)]  # fmt: skip
    months = list(zip(quiet, run_all(replay_months, quiet), strict=True))
    met = [(world, REFERENCES[world.name][1], change, seed) for world in worlds for change in (*CHANGES, *UNSEEN)
           for seed in range(CASES)]  # fmt: skip
    changes = list(zip(met, run_all(meet_change, met), strict=True))
    PAGE.write_text("\n".join(write_page(worlds, months, changes)))
    return 0


def tabulate_months(world: World, months: list) -> list[str]:
    """Return a row for each reference and traffic of a set in which nothing changed."""
    lines = []
    for size in REFERENCES[world.name]:
        for kind in TRAFFIC:
            own = [found for task, found in months if (task[0].name, *task[1:3]) == (world.name, size, kind)]
            total, spans = sum(own, Counter()), HOURS / A_MONTH * len(own)
            unsure = total["insufficient"] / (HOURS * len(own))
            lines.append(
                f"| {world.name} | {size} | {kind} | {total['alarms'] / spans:.2f} | {total['labels'] / spans:.1f} "
                f"| {total['harm']} | {unsure:.1%} |"
            )
    return lines


def write_page(worlds: list[World], months: list, changes: list) -> list[str]:
    """Return the lines of ``docs/benchmarks/drift.md``."""
    lines = [
        "# The watch over months",
        "",
        f"`python -m benchmarks drift`: the embedded backbone with a head fitted on {TAUGHT} images of every class but "
        f"the last answers all other images of a set; production draws windows of {WINDOW} from those that are in no "
        "reference. "
        "Through the functions that the watch calls (verdict, alarm, audit), with their defaults: one false alarm a "
        "month; not through a Prefect server and a prediction log. Labels of an audit are the true ones.",
        "",
        *describe_machine(),
        "",
        "## Nothing changes",
        "",
        f"{HOURS // 24} days of hourly windows for each of {SPLITS} reference of each size. Bursts: an image is "
        "followed, with that chance, by one of the twenty that resemble it most. Promised: one alarm a month.",
        "",
        "| set | reference | traffic | alarms a month | labels asked a month | called harm in all | too little told |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [line for world in worlds for line in tabulate_months(world, months)]
    lines += [
        "",
        "## Something changes",
        "",
        f"Ten windows of the line as it was, then ten of it changed, {CASES} times with references of their own "
        f"({', '.join(f'{name} {sizes[1]}' for name, sizes in REFERENCES.items())} images). Labels are those asked for "
        "until harm was called, or in all ten windows where it was not.",
        "",
        "| set | change | accuracy | alarm raised | harm called | within two windows | no harm found | labels, mean |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for world in worlds:
        for change in (*CHANGES, *UNSEEN):
            own = [found for task, found in changes if (task[0].name, task[2]) == (world.name, change)]
            shares = [
                f"{np.mean([found[what] > 0 for found in own]):.0%}"
                for what in ("alarms", "harm", "harm within two windows", "no harm")
            ]
            labels = np.mean([found["labels"] for found in own])
            lines.append(
                f"| {world.name} | {change} | {world.accuracy[change]:.3f} | {' | '.join(shares)} | {labels:.0f} |"
            )
    return [*lines, ""]
