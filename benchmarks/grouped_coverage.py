"""How often the printed 95 % intervals hold the truth when images come in groups, thirty of one coil or patient.

The evidence for the true class of an image is Gaussian, and a part of its variance is that of the group. Test sets of
a few groups are drawn again and again and scored twice by the product's own functions: told of the groups, and not.
"""

import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, ndtr, ndtri
from threadpoolctl import threadpool_limits

from benchmarks.interval_coverage import GROUPED, PAGE, WITHIN, Coverage, say_error, split_page
from benchmarks.machine import describe_machine
from regraft.models.certificate.paired_difference import measure_difference
from regraft.models.evaluation.evaluate import EvaluateConfig, evaluate_predictions

EACH = 30
"""Images of a group."""
SHARPNESS = 2.5
"""Logit for the true class for each unit of its evidence."""
LEAD = 0.05
"""By how much the first of two ways of learning is truly better in accuracy."""
REPEATS, RESAMPLES, DRAWS = 200, 100, 3
SCORES = ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "pr_auc", "log_loss", "brier")
SHOWN = (*SCORES, "recall", "precision", "difference")


@dataclass(frozen=True, slots=True)
class GroupedCell:
    """One kind of test set: ``alike`` is the share of the evidence's variance that images of a group have in common.

    ``mixed``: every group has images of both classes; else of one.
    """

    groups: int
    alike: float
    accuracy: float
    mixed: bool

    @property
    def members(self) -> np.ndarray:
        """Return the group of each image, ``(N,)``."""
        return np.repeat(np.arange(self.groups), EACH)

    @property
    def labels(self) -> np.ndarray:
        """Return the class of each image, 0 or 1, ``(N,)``."""
        return np.arange(self.groups * EACH) % 2 if self.mixed else self.members % 2


def list_cells() -> Iterator[GroupedCell]:
    """Yield every cell that is reported."""
    for axes in itertools.product((0.0, 0.3, 0.6, 0.9), (8, 12, 20, 40), (0.8, 0.95)):
        yield GroupedCell(axes[1], axes[0], axes[2], mixed=False)
    for groups, accuracy in itertools.product((8, 12, 20, 40), (0.8, 0.95)):
        yield GroupedCell(groups, 0.6, accuracy, mixed=True)


def find_truth(cell: GroupedCell, points: int = 20_001) -> dict[str, float]:
    """Return the scores over all groups that there could be; both classes are as frequent and as easy."""
    strength = ndtri(cell.accuracy)
    evidence = strength + ndtri((np.arange(points) + 0.5) / points)
    true, other = expit(SHARPNESS * evidence), expit(-SHARPNESS * evidence)
    shares = ("accuracy", "balanced_accuracy", "macro_f1", "recall", "precision")
    truth = dict.fromkeys(shares, cell.accuracy) | {"roc_auc": float(ndtr(np.sqrt(2) * strength))}
    # Over the positives the share of them among all images ranked as high; of the negatives by the normal law.
    precision = (above := (np.arange(points)[::-1] + 0.5) / points) / (above + ndtr(-evidence - strength))
    truth["pr_auc"] = float(np.mean(precision))
    return truth | {
        "log_loss": float(np.mean(-np.log(true))),
        "brier": float(np.mean(other**2)),
        "difference": LEAD,
    }


def draw_answers(cell: GroupedCell, rng: np.random.Generator) -> np.ndarray:
    """Return the probabilities of a test set of new groups, ``(N, 2)``."""
    shared = np.sqrt(cell.alike) * rng.normal(size=cell.groups)[cell.members]
    evidence = ndtri(cell.accuracy) + shared + np.sqrt(1 - cell.alike) * rng.normal(size=len(shared))
    second = expit(SHARPNESS * np.where(cell.labels == 1, evidence, -evidence))
    return np.stack([1 - second, second], axis=1)


def draw_right(cell: GroupedCell, accuracy: float, rng: np.random.Generator) -> np.ndarray:
    """Return which images one way of learning is right on, ``(DRAWS, N)``; its draws share groups and images."""
    shared = np.sqrt(cell.alike) * rng.normal(size=cell.groups)[cell.members]
    own = rng.normal(size=len(shared)) + rng.normal(size=(DRAWS, len(shared)))
    return ndtri(accuracy) + shared + np.sqrt((1 - cell.alike) / 2) * own > 0


def bound_scores(
    cell: GroupedCell, groups: np.ndarray | None, resamples: int, said: np.ndarray, ways: list[np.ndarray]
) -> Iterator[tuple[str, float, float]]:
    """Yield (score, low, high) of every interval of one test set, with its groups told or kept back."""
    found = evaluate_predictions(said, cell.labels, ["a", "b"], EvaluateConfig(bootstrap=resamples), groups=groups)
    for name in SCORES:
        yield name, found["test"][f"{name}_low"], found["test"][f"{name}_high"]
    for row in found["classes"]:
        for name in ("recall", "precision"):
            if name in row:
                yield name, row[f"{name}_low"], row[f"{name}_high"]
    difference = measure_difference(*ways, cell.labels, groups=groups)
    yield "difference", difference.low, difference.high


def measure_grouped(
    cell: GroupedCell, repeats: int = REPEATS, resamples: int = RESAMPLES, seed: int = 1
) -> dict[str, Coverage]:
    """Return the coverage of every interval over ``repeats`` test sets; "by image ..." is that of images."""
    rng, truth = np.random.default_rng(seed), find_truth(cell)
    found: dict[str, list[tuple[bool, float]]] = {}
    for _ in range(repeats):
        said = draw_answers(cell, rng)
        ways = [draw_right(cell, accuracy, rng) for accuracy in (cell.accuracy, cell.accuracy - LEAD)]
        for prefix, groups in (("", cell.members), ("by image ", None)):
            for name, low, high in bound_scores(cell, groups, resamples, said, ways):
                found.setdefault(prefix + name, []).append((low <= truth[name] <= high, high - low))
    return {
        name: Coverage(sum(held for held, _ in rows), len(rows), float(np.mean([width for _, width in rows])))
        for name, rows in found.items()
    }


Rows = list[tuple[GroupedCell, dict[str, Coverage]]]


def write_section(rows: Rows, seconds: float) -> None:
    """Put the section on groups into ``docs/benchmarks/intervals.md``; the rest of the page stays as it was."""
    lines = [
        GROUPED,
        "",
        f"`python -m benchmarks.grouped_coverage`, {seconds:.0f} seconds of one core; only this section comes from it.",
        f"Two classes alike, {EACH} images in each group. The evidence for an image's class is Gaussian; the share of",
        'its variance that images of one group have in common is "alike". Every test set is scored twice, told of the',
        'groups and not ("by image", as before groups were known). The figure is the share of test sets whose interval',
        f"held the true score, which is that over all groups that there could be. {REPEATS} test sets in a cell, so a",
        f"coverage near 95 % is known to within {say_error(REPEATS)} points; recall and precision are pooled over the",
        f'classes. "Difference" is that of a certificate: two ways of learning, {DRAWS} draws each, truly '
        f"{LEAD} apart.",
        "",
        *describe_machine(),
        "",
        *tabulate_scores(rows),
        "",
        *READING,
        "",
        "Coverage in percent told of the groups / by image, and the mean width of the interval of balanced accuracy:",
        "",
        *tabulate_cells(rows),
    ]
    PAGE.write_text(split_page()[0].rstrip() + "\n\n" + "\n".join(lines) + "\n")


READING = (
    "- By image, intervals are too narrow by far as soon as images of a group have anything in common.",
    "- Told of the groups, intervals are too wide where images of a group have nothing in common (alike 0): a few",
    "  groups cannot show that, and half a group whose images all fare alike is counted beside those that were seen.",
    "- The least coverage, 90 %, is that of 40 groups much alike at an accuracy of 0.95: a few of them hold all of the",
    "  errors, and a test set that missed some looks better than the next.",
)


def list_kinds(rows: Rows) -> Iterator[tuple[str, Rows]]:
    """Yield the cells in kinds that are told apart: by what groups have in common, and mixed."""
    for alike in sorted({cell.alike for cell, _ in rows}):
        yield f"alike {alike:g}", [row for row in rows if row[0].alike == alike and not row[0].mixed]
    yield "mixed, alike 0.6", [row for row in rows if row[0].mixed]


def tabulate_scores(rows: Rows) -> list[str]:
    """Return one line per score: least and mean coverage with groups and by image, for each kind of cell."""
    kinds = list(list_kinds(rows))
    lines = [
        f"Least and mean coverage over the cells of a kind; {WITHIN[0]:.0%} to {WITHIN[1]:.0%} are wanted:",
        "",
        f"| interval of | {' | '.join(f'{name} | by image' for name, _ in kinds)} |",
        f"|{' --- |' * (2 * len(kinds) + 1)}",
    ]
    for name in SHOWN:
        cells = []
        for _, members in kinds:
            for prefix in ("", "by image "):
                shares = [100 * coverages[prefix + name].share for _, coverages in members]
                cells.append(f"{min(shares):.0f}, {np.mean(shares):.1f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def tabulate_cells(rows: Rows) -> list[str]:
    """Return one line per cell with both coverages of every score."""
    lines = [f"| test set | {' | '.join(SHOWN)} | width |", f"|{' --- |' * (len(SHOWN) + 2)}"]
    for cell, coverages in rows:
        pairs = [(coverages[name], coverages[f"by image {name}"]) for name in SHOWN]
        cells = [f"{100 * told.share:.0f} / {100 * untold.share:.0f}" for told, untold in pairs]
        widths = [coverages[f"{prefix}balanced_accuracy"].width for prefix in ("", "by image ")]
        kind = "of both classes" if cell.mixed else "of one class each"
        name = f"{cell.groups} groups {kind}, alike {cell.alike:g}, accuracy {cell.accuracy}"
        lines.append(f"| {name} | {' | '.join(cells)} | {widths[0]:.3f} / {widths[1]:.3f} |")
    return lines


def measure_groups(arguments: list[str]) -> int:
    """Measure every cell, write the section and return the exit code."""
    if arguments:
        sys.stderr.write(f"takes no arguments, got {arguments}\n")
        return 2
    started, rows = time.process_time(), []
    with threadpool_limits(1):
        for cell in list_cells():
            rows.append((cell, measure_grouped(cell)))
            sys.stderr.write(f"{cell} done\n")
    write_section(rows, time.process_time() - started)
    return 0


if __name__ == "__main__":
    sys.exit(measure_groups(sys.argv[1:]))
