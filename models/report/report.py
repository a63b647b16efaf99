"""One self-contained HTML page about one model: what it was made of, what it is worth, and where it fails.

The caller passes plain values and small images (``ReportContent``); words and order are in ``template.html``.
"""

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from regraft.models.evaluation.judging import RULE, say_held_out, say_judged
from regraft.models.report.formats import format_level, format_range, format_share, format_value
from regraft.models.report.pictures import Picture, encode_thumbnail
from regraft.models.report.plots import draw_curves, draw_interval, draw_ranges, draw_reliability
from regraft.models.report.shift_plot import draw_shifts, say_shifts
from regraft.models.report.tradeoff import draw_tradeoff
from regraft.serving.files.durable import write_bytes

logger = logging.getLogger(__name__)

REPORT_FILE = "report.html"
MATRIX_CLASSES = 24
"""Classes up to which the confusion matrix is drawn; beyond it the most confused pairs are listed."""
MAX_PICTURES = 120
"""Pictures in each group; with three groups the page stays below 3 MB."""
MAX_ROWS, SHOWN_PAIRS = 20, 8
CONDITIONS = {"transfer": "pretrained weights", "scratch": "the same network from scratch", "neighbours": "no network"}
STAGES = {"before": "before scaling", "after": "after scaling"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportContent:
    """Everything a report may show; a section whose data is absent is left out."""

    name: str
    """The learning problem."""
    metrics: Mapping[str, Any]
    """What ``regraft.models.evaluation.evaluate.evaluate_predictions`` returned; with ``shifts``, what
    ``regraft.models.classifier.robustness.measure_robustness`` did, and ``alone`` where nothing is compared."""
    backbone: Mapping[str, Any] = field(default_factory=dict)
    """name, sha256, licence, source."""
    verdict: str = ""
    """Short: what was decided about this model, for instance "promoted"; the gate speaks after the bundle is sealed."""
    reason: str = ""
    """Why, in a sentence."""
    checked: Sequence[str] = ()
    """What was checked on the way here, a sentence each."""
    notes: Sequence[str] = ()
    """What earlier stages noted and a reader must know first, a sentence each: lost classes, an unknown licence."""
    judged: int | None = None
    """Versions that this test part had judged when the page was made; None where nobody counted."""
    summary: Mapping[str, Any] = field(default_factory=dict)
    """The dataset's summary.json: images, distinct, bytes, quarantined, modes, formats."""
    samples: Sequence[Picture] = ()
    """Pictures of the data, a few per class."""
    validation: Mapping[str, Any] = field(default_factory=dict)
    """validation.json: success, expectations[] {name, success, observed, count, share, first_offenders, advice}."""
    quarantine: Sequence[Mapping[str, Any]] = ()
    """quarantine.json: {path, reason, detail} each."""
    split: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Images by part, then by label."""
    selection: Sequence[Mapping[str, Any]] = ()
    """Candidates: name, accuracy, accuracy_low, accuracy_high; optional chosen (bool), licence, note, ms (an image),
    rank, chance, prior, last_round."""
    choice: Mapping[str, Any] = field(default_factory=dict)
    """How the backbone was chosen: reason, aspects, fits[], rivals[], refused{}, trials, n."""
    history: Sequence[Mapping[str, Any]] = ()
    """Training: epoch or step, and any columns with "loss" or "accuracy" in their name."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Facts about the training, for instance kept, reason, steps, temperature."""
    examples: Sequence[Picture] = ()
    """Held-out pictures with answers, a few per class."""
    mistakes: Sequence[Picture] = ()
    """Held-out pictures with wrong answers, the most confident first."""
    shifted: Sequence[Picture] = ()
    """One held-out picture as each shift leaves it; its label is the name of the shift."""
    parity: Mapping[str, Any] = field(default_factory=dict)
    """``Parity.to_json()``."""
    certificate: Mapping[str, Any] = field(default_factory=dict)
    """Verdict on whether transfer helped: decision, reason; optional conditions, crossing, next_labels, notes."""
    lineage: Mapping[str, str] = field(default_factory=dict)
    """Hashes of dataset, split, params, code."""


def group_pictures(pictures: Sequence[Picture]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return pictures ready for the page by label, in order of appearance; every label gets its share of the room."""
    groups: dict[str, list[Picture]] = {}
    for picture in pictures:
        groups.setdefault(picture.label, []).append(picture)
    room = max(1, MAX_PICTURES // max(1, len(groups)))
    shown = list(groups.items())[:MAX_PICTURES]
    return [(label, [describe_picture(picture) for picture in members[:room]]) for label, members in shown]


def describe_picture(picture: Picture) -> dict[str, Any]:
    """Return a picture's data URI and words."""
    return {
        "uri": encode_thumbnail(picture.pixels),
        "label": picture.label,
        "predicted": picture.predicted,
        "probability": picture.probability,
        "wrong": picture.predicted is not None and picture.predicted != picture.label,
        "source": picture.source,
    }


def shade_confusion(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the confusion matrix with each cell's share of its row; empty for too many classes."""
    if len(metrics["labels"]) > MATRIX_CLASSES:
        return []
    rows = []
    for i, (label, counts) in enumerate(zip(metrics["labels"], metrics["confusion"], strict=True)):
        total = max(1, sum(counts))
        cells = [{"n": n, "tint": round(100 * n / total), "right": i == j} for j, n in enumerate(counts)]
        rows.append({"label": label, "n": sum(counts), "cells": cells})
    return rows


def list_confusions(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the most frequent confusions, each with its count and its share of the true class."""
    names = metrics["labels"]
    pairs = [
        {"actual": names[i], "predicted": names[j], "n": n, "share": n / sum(row)}
        for i, row in enumerate(metrics["confusion"])
        for j, n in enumerate(row)
        if i != j and n
    ]
    return sorted(pairs, key=lambda pair: -pair["n"])[:MAX_ROWS]


def plot_history(history: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return one plot of the losses and one of the accuracies, where the history has them."""
    if len(history) < 2:
        return []
    axis = "epoch" if "epoch" in history[0] else "step"
    plots = []
    for kind in ("loss", "accuracy"):
        columns = [name for name in history[0] if kind in name and not name.endswith(("_low", "_high"))]
        lines = {
            name.replace("_", " "): [
                (float(row.get(axis, i)), float(row[name])) for i, row in enumerate(history) if is_number(row.get(name))
            ]
            for name in columns
        }
        lines = {name: points for name, points in lines.items() if points}
        if lines:
            plots.append(draw_curves(lines, axis, kind, most=1.0 if kind == "accuracy" else math.inf))
    return plots


def is_number(value: Any) -> bool:
    """Return whether a cell of a history holds a finite number."""
    try:
        return abs(float(value)) < float("inf")
    except (TypeError, ValueError):
        return False


def plot_reliability(metrics: Mapping[str, Any]) -> Any:
    """Return the reliability diagram before and after temperature scaling, or None."""
    stages = {
        words: [row for row in metrics.get("reliability", ()) if row["stage"] == stage]
        for stage, words in STAGES.items()
    }
    stages = {words: rows for words, rows in stages.items() if rows}
    return draw_reliability(stages) if stages else None


def plot_certificate(certificate: Mapping[str, Any]) -> Any:
    """Return the learning curves of all conditions with intervals, or None where fewer than two sizes were measured."""
    conditions = certificate.get("conditions", ())
    if len({condition["n"] for condition in conditions}) < 2:
        return None
    lines = {
        words: [
            {"x": condition["n"], "y": condition["accuracy"], "low": condition["low"], "high": condition["high"]}
            for condition in sorted(conditions, key=lambda condition: condition["n"])
            if condition["condition"] == name
        ]
        for name, words in CONDITIONS.items()
    }
    return draw_ranges(lines, "labelled images", "balanced accuracy")


def tabulate_split(split: Mapping[str, Mapping[str, int]], labels: Sequence[str]) -> dict[str, Any]:
    """Return parts and one row per label with its counts."""
    parts = [part for part in ("train", "validation", "test") if part in split] + sorted(
        set(split) - {"train", "validation", "test"}
    )
    known = list(labels) + sorted({label for counts in split.values() for label in counts} - set(labels))
    rows = [{"label": label, "counts": [split[part].get(label, 0) for part in parts]} for label in known]
    return {"parts": parts, "rows": rows, "totals": [sum(split[part].values()) for part in parts]}


def choose_facts(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of the dataset's summary fits on a line: no lists, nothing nested, not what the split table says."""

    def fits(key: str, value: Any) -> bool:
        if isinstance(value, Mapping):
            return bool(value) and key != "labels" and not any(isinstance(item, Mapping) for item in value.values())
        return not isinstance(value, list | tuple)

    return {key: value for key, value in summary.items() if fits(key, value)}


def bound_scores(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[float, float]:
    """Return the axis on which the intervals of ``rows`` are drawn: from just below the lowest to 1."""
    lows = [row[f"{name}_low"] for row in rows if f"{name}_low" in row]
    return (int(max(0.0, min(lows, default=0.0)) * 20) / 20, 1.0)


def prepare_page(content: ReportContent) -> dict[str, Any]:
    """Return the variables of ``template.html``."""
    metrics = content.metrics
    timed = [row for row in content.selection if "ms" in row]
    return {
        "content": content,
        "test": metrics["test"],
        "words": {"held_out": say_held_out(metrics["test"]), "judged": say_judged(content.judged), "rule": RULE},
        "classes": metrics["classes"],
        "class_bounds": bound_scores(metrics["classes"], "f1"),
        "selection_bounds": bound_scores(content.selection, "accuracy"),
        "has_trials": any(row.get("last_round") is not None for row in content.selection),
        "tradeoff": draw_tradeoff(timed) if len(timed) > 1 else None,
        "facts_of_data": choose_facts(content.summary),
        "reasons": Counter(row["reason"] for row in content.quarantine).most_common(),
        "matrix": shade_confusion(metrics),
        "confusions": list_confusions(metrics)[: SHOWN_PAIRS if len(metrics["labels"]) <= MATRIX_CLASSES else MAX_ROWS],
        "curves": plot_history(content.history),
        "reliability": plot_reliability(metrics),
        "shifts": draw_shifts(metrics["shifts"]) if "shifts" in metrics else None,
        "shift_words": say_shifts(metrics["shifts"]) if "shifts" in metrics else (),
        "shifted": [describe_picture(picture) for picture in content.shifted],
        "learning": plot_certificate(content.certificate),
        "conditions": [
            condition
            for condition in content.certificate.get("conditions", ())
            if condition["n"] == content.certificate["n"]
        ],
        "condition_words": CONDITIONS,
        "split": tabulate_split(content.split, metrics["labels"]) if content.split else None,
        "samples": group_pictures(content.samples),
        "examples": group_pictures(content.examples),
        "mistakes": [describe_picture(picture) for picture in content.mistakes[:MAX_PICTURES]],
        "max_rows": MAX_ROWS,
    }


def render_report(into: Path, content: ReportContent) -> Path:
    """Write ``report.html`` into the folder ``into`` and return its path.

    The page asks for nothing outside itself, runs no script, follows light and dark, prints, and is the same byte for
    byte for the same content.

    Args:
        into: The bundle folder in the making, or any other.
        content: What to show.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"share": format_share, "value": format_value, "level": format_level}
    environment.globals |= {"draw_interval": draw_interval, "range_of": format_range}
    page = environment.get_template("template.html").render(prepare_page(content))
    write_bytes(into / REPORT_FILE, page.encode())
    logger.info("report done bytes=%d", len(page))
    return into / REPORT_FILE
