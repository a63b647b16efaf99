"""The model card: a page of Markdown that travels with the bundle and says what the model is for and where it ends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from regraft.models.evaluation.judging import RULE, say_held_out, say_judged

CARD_FILE = "CARD.md"
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
    labels = [escape_markdown(label) for label in metrics["labels"]]
    sections = [
        f"# Model card: {escape_markdown(name)}",
        f"Classifies one image into one of {len(labels)} classes: {', '.join(labels)}.",
        "## Intended use",
        "Images that resemble the training data in subject, camera and light. Every image is given one of the classes "
        "above, also an image that shows none of them: the stated probability is then no guide. A person should look "
        "at answers that decide over people, safety or money.",
        *(["## To be known first", write_bullets([escape_markdown(note) for note in notes])] if notes else []),
        *write_data(split),
        "## Scores",
        *write_scores(metrics, judged),
        *write_certificate(certificate),
        "## Limits",
        write_bullets(list_limits(metrics)),
        "## Made from",
        write_bullets(list_origins(origins)),
    ]
    if origins.lineage:
        rows = [[escape_markdown(key), f"`{digest}`"] for key, digest in sorted(origins.lineage.items())]
        sections += ["## Lineage", write_table(["what", "SHA-256"], rows)]
    return "\n\n".join(sections) + "\n"


def escape_markdown(text: Any) -> str:
    """Return ``text`` on one line, so that no label can open a tag, a table cell, a link or a heading."""
    flat = " ".join(str(text).split())
    for sign in "\\`*_[]|#!":
        flat = flat.replace(sign, "\\" + sign)
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def write_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table; cells are escaped by the caller."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def write_bullets(lines: Sequence[str]) -> str:
    """Return a Markdown list."""
    return "\n".join(f"- {line}" for line in lines)


def write_range(row: Mapping[str, Any], score: str) -> list[str]:
    """Return a score and its interval as two cells; dashes where it is undefined."""
    if score not in row:
        return ["–", "–"]
    return [f"{row[score]:.4f}", f"{row[f'{score}_low']:.4f} – {row[f'{score}_high']:.4f}"]


def write_data(split: Mapping[str, Mapping[str, int]] | None) -> list[str]:
    """Return the section on the data, empty where the split is not given."""
    if not split:
        return []
    parts = [part for part in ("train", "validation", "test") if part in split]
    labels = sorted({label for part in parts for label in split[part]})
    rows = [[escape_markdown(label), *(split[part].get(label, 0) for part in parts)] for label in labels]
    rows.append(["all", *(sum(split[part].values()) for part in parts)])
    return ["## Data", "Images per class and part.", write_table(["class", *parts], rows)]


def write_scores(metrics: Mapping[str, Any], judged: int | None) -> list[str]:
    """Return the scores on the test part: the whole, then each class."""
    test, level = metrics["test"], f"{100 * metrics['confidence']:g} % interval"
    grouped = "groups" in test
    whole = [[title, *write_range(test, key)] for key, title in SCORES if key in test]
    classes = [
        [
            escape_markdown(row["label"]),
            row["n"],
            *([row["groups"]] if grouped else []),
            *write_range(row, "precision"),
            *write_range(row, "recall"),
        ]
        for row in metrics["classes"]
    ]
    return [
        f"On {say_held_out(test)}. {say_judged(judged)}",
        f"Always naming the largest class would be right on {test['majority_share']:.4f} of the images. {RULE}",
        write_table(["score", "value", level], whole),
        write_table(
            ["class", "images", *(["groups"] if grouped else []), "precision", level, "recall", level], classes
        ),
    ]


def write_certificate(certificate: Mapping[str, Any] | None) -> list[str]:
    """Return whether transfer helped, empty where nobody asked."""
    if not certificate:
        return []
    lines = [certificate["reason"] + ".", *certificate.get("notes", [])]
    curves = (("crossing", "Scratch catches up"), ("next_labels", "Another hundred labels are worth"))
    lines += [f"{title}: {certificate[key]['words']}." for key, title in curves if certificate.get(key)]
    verdict = f"Verdict: **{escape_markdown(certificate['decision'])}**."
    return ["## Did transfer help?", verdict, write_bullets([escape_markdown(line) for line in lines])]


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
