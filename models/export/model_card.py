"""The model card: a page of Markdown that travels with the bundle and says what the model is for and where it ends.

Its head is the metadata that model hubs read; its text is in ``card.md``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from regraft.models.evaluation.judging import RULE, say_held_out, say_judged

CARD_FILE = "CARD.md"
TEMPLATE = Path(__file__).with_name("card.md")
SCORES = (
    ("accuracy", "Accuracy"),
    ("balanced_accuracy", "Balanced accuracy"),
    ("macro_f1", "Macro F1"),
    ("roc_auc", "ROC-AUC"),
    ("pr_auc", "PR-AUC"),
    ("ece", "Calibration error"),
)
WEAK_IMAGES, WEAK_GROUPS = 30, 8
"""Test images of a class, and groups of them, below which its figures are called uncertain."""


@dataclass(frozen=True, slots=True)
class Origins:
    """What a model was made from.

    Attributes:
        backbone: name, sha256, licence, source.
        preprocess: The preprocessing spec as plain values; empty where unknown.
        parity: ``Parity.to_json()``; empty where it was not checked.
        lineage: Hashes by name.
    """

    backbone: Mapping[str, Any]
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    lineage: Mapping[str, str] = field(default_factory=dict)


def render_card(
    *,
    name: str,
    metrics: Mapping[str, Any],
    origins: Origins,
    split: Mapping[str, Mapping[str, int]] | None = None,
    certificate: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    judged: int | None = None,
) -> str:
    """Return CARD.md.

    Args:
        name: The learning problem.
        metrics: What ``regraft.models.evaluation.evaluate.evaluate_predictions`` returned.
        origins: Backbone, preprocessing, parity and lineage.
        split: Images by part, then by label.
        certificate: The verdict on whether transfer helped, as plain values.
        notes: What earlier stages noted and a user must know, a sentence each.
        judged: Versions that the test part had judged when the page was made; None where nobody counted.
    """
    split = split or {}
    return (
        ModelCard.from_template(
            _describe(name, metrics["test"], origins.backbone),
            str(TEMPLATE),
            md=escape_markdown,
            name=name,
            metrics=metrics,
            notes=[escape_markdown(note) for note in notes],
            split=split,
            parts=[part for part in ("train", "validation", "test") if part in split],
            split_labels=sorted({label for images in split.values() for label in images}),
            held_out=say_held_out(metrics["test"]),
            judged=say_judged(judged),
            rule=RULE,
            scores=SCORES,
            level=f"{100 * metrics['confidence']:g} % interval",
            grouped="groups" in metrics["test"],
            certificate=certificate,
            certificate_lines=[escape_markdown(line) for line in list_findings(certificate or {})],
            limits=list_limits(metrics),
            made_from=list_origins(origins),
            lineage=origins.lineage,
        ).content.rstrip()
        + "\n"
    )


def _describe(name: str, test: Mapping[str, Any], backbone: Mapping[str, Any]) -> ModelCardData:
    """Return the metadata at the head of the page, as model hubs read it."""
    metrics = {"accuracy": test.get("accuracy"), "f1": test.get("macro_f1")}
    return ModelCardData(
        license=str(backbone.get("licence") or "unknown").lower(),
        library_name="onnx",
        pipeline_tag="image-classification",
        tags=["regraft"],
        model_name=name,
        eval_results=[
            EvalResult("image-classification", "imagefolder", name, metric, round(value, 6), dataset_split="test")
            for metric, value in metrics.items()
            if value is not None
        ],
    )


def escape_markdown(text: Any) -> str:
    """Return ``text`` on one line, so that no label can open a tag, a table cell, a link or a heading."""
    flat = " ".join(str(text).split())
    for sign in "\\`*_[]|#!":
        flat = flat.replace(sign, "\\" + sign)
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def list_findings(certificate: Mapping[str, Any]) -> list[str]:
    """Return what the certificate found, a sentence each; none where nobody asked."""
    if not certificate:
        return []
    curves = (("crossing", "Scratch catches up"), ("next_labels", "Another hundred labels are worth"))
    worth = [f"{title}: {certificate[key]['words']}." for key, title in curves if certificate.get(key)]
    return [certificate["reason"] + ".", *certificate.get("notes", []), *worth]


def list_limits(metrics: Mapping[str, Any]) -> list[str]:
    """Return what the figures do not cover."""
    limits = [escape_markdown(note) for note in metrics["notes"]]
    few = [row for row in metrics["classes"] if 0 < row["n"] < WEAK_IMAGES]
    if few:
        named = ", ".join(f"{escape_markdown(row['label'])} ({row['n']})" for row in few)
        limits.append(f"Fewer than {WEAK_IMAGES} test images, so the figures are uncertain: {named}.")
    few = [row for row in metrics["classes"] if 0 < row.get("groups", 0) < WEAK_GROUPS]
    if few:
        named = ", ".join(f"{escape_markdown(row['label'])} ({row['groups']})" for row in few)
        limits.append(f"Test images of fewer than {WEAK_GROUPS} groups, so the figures are uncertain: {named}.")
    recalls = [row for row in metrics["classes"] if "recall" in row]
    worst = min(recalls, key=lambda row: (row["recall"], row["label"]))
    if worst["recall"] < 1:
        limits.append(f"Weakest class: {escape_markdown(worst['label'])}, recall {worst['recall']:.4f}.")
    if shifts := metrics.get("shifts"):
        worst = min(shifts["rows"][1:], key=lambda row: row["accuracy"])
        share, low, high = (f"{worst[name]:.4f}" for name in ("accuracy", "accuracy_low", "accuracy_high"))
        limits.append(
            f"Of {len(shifts['rows']) - 1} changes of lamp, lens and sensor the hardest is {worst['name']} "
            f"({worst['describes']}): accuracy {share} [{low}, {high}] on {shifts['n']} test images so changed."
        )
    limits.append("The figures hold for images like the test images; another camera, light or product needs new ones.")
    limits.append("No check of fairness between groups of people was made.")
    return limits


def list_origins(origins: Origins) -> list[str]:
    """Return backbone with licence, preprocessing and parity, a line each."""
    backbone, preprocess, parity = origins.backbone, origins.preprocess, origins.parity
    name, licence, source = (escape_markdown(backbone.get(key) or "unknown") for key in ("name", "licence", "source"))
    lines = [f"Backbone {name}, licence {licence}, from {source}, SHA-256 `{backbone.get('sha256') or 'unknown'}`."]
    if preprocess:
        spec = ", ".join(f"{key} {preprocess[key]}" for key in sorted(preprocess))
        lines.append(f"Preprocessing: {escape_markdown(spec)}.")
    if parity:
        lines.append(
            f"ONNX against torch on {parity['n']} images: probabilities differ by at most "
            f"{parity['max_abs_diff']:.2g}, every answer the same: {'yes' if parity['argmax_equal'] else 'no'}."
        )
    return lines
