"""What the report shows, gathered from what the stages left: figures, pictures, hashes."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from regraft.data.dataset.manifest import read_manifest
from regraft.data.dataset.shards import read_images
from regraft.data.split.split import read_split
from regraft.models.backbones.licences import read_stated
from regraft.models.certificate.verdict import CERTIFICATE_FILE
from regraft.models.classifier.checkpoint import CheckpointInfo
from regraft.models.classifier.predictions import Answers
from regraft.models.export.onnx import ExportConfig, Parity
from regraft.models.report.pictures import Picture, choose_examples, choose_mistakes
from regraft.models.report.report import ReportContent
from regraft.models.views.shifts import SHIFTS
from regraft.serving.decoding.preprocess import PreprocessSpec, load_input, open_input
from regraft.tasks.graph.part_arrays import Part
from regraft.tasks.reporting.notes import list_notes
from regraft.tasks.settings.knobs import read_section
from regraft.tasks.workspace.judgements import count_judged
from regraft.tasks.workspace.workspace import Workspace

SAMPLES_PER_CLASS = 4


def gather_content(
    home: Workspace, info: CheckpointInfo, test: Part, answers: Answers, parity: Parity
) -> ReportContent:
    """Return everything the report of this checkpoint shows."""
    split = read_split(home.split)
    examples = choose_examples(answers.probabilities, test.targets)
    mistakes = choose_mistakes(answers.probabilities, test.targets)
    selection = _read_json(home.selection / "selection.json")
    certificate = _read_json(home.certificate / CERTIFICATE_FILE)
    metrics = _read_json(home.evaluation / "metrics.json")
    summary, validation = _read_json(home.dataset / "summary.json"), _read_json(home.validation / "validation.json")
    return ReportContent(
        name=read_section(home.params, "export", ExportConfig).name,
        metrics=metrics,
        backbone=info.backbone.model_dump(),
        verdict="exported, before the gate",
        reason=info.reason,
        checked=_list_checks(home, info, parity, selection, certificate),
        notes=list_notes(summary, validation, info.backbone.model_dump()),
        judged=count_judged(home),
        summary=summary,
        samples=_show_samples(home, split, info.preprocess),
        validation=validation,
        quarantine=_read_json(home.dataset / "quarantine.json"),
        split={part: rows["label"].value_counts().sort_index().to_dict() for part, rows in split.groupby("part")},
        selection=_list_candidates(selection),
        choice={name: selection[name] for name in ("reason", "aspects", "fits", "rivals", "refused", "n")},
        history=_read_history(home.checkpoint / "history.csv"),
        training=_list_training(info),
        examples=_show_answers(home, test, answers, info, examples),
        mistakes=_show_answers(home, test, answers, info, mistakes),
        shifted=_show_shifted(home, test.sha256s[examples[0]], info.preprocess) if "shifts" in metrics else (),
        parity=parity.to_json(),
        certificate=certificate,
        lineage=read_lineage(home),
    )


def read_lineage(home: Workspace) -> dict[str, str]:
    """Return the hashes of what the bundle was made from.

    Only of what the stage depends on: parameters, code and the lock are kept beside the version when it is registered.
    """
    return {
        "dataset": _hash(home.dataset / "manifest.parquet"),
        "split": _hash(home.split),
        "selection": _hash(home.selection / "selection.json"),
        "checkpoint": _hash(home.checkpoint / "model.safetensors"),
        "evaluation": _hash(home.evaluation / "metrics.json"),
        "certificate": _hash(home.certificate / CERTIFICATE_FILE),
    }


def _list_checks(
    home: Workspace, info: CheckpointInfo, parity: Parity, selection: dict[str, Any], certificate: dict[str, Any]
) -> list[str]:
    validation = _read_json(home.validation / "validation.json")
    held = sum(one["success"] for one in validation["expectations"])
    return [
        f"{held} expectations on the data hold.",
        f"Backbone: {selection['reason']}",
        f"Licence of the backbone: {read_stated(info.backbone.licence).describe()}.",
        f"Training: {info.reason}.",
        f"Certificate: {certificate['reason']}.",
        f"ONNX against torch: {parity.reason}.",
    ]


def _list_candidates(selection: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": row["name"],
            "accuracy": row["score"],
            "accuracy_low": row["low"],
            "accuracy_high": row["high"],
            "chosen": row["name"] == selection["chosen"],
            "licence": read_stated(row["licence"]).describe(),
            "ms": row["nominal_ms"],
            "rank": row["rank"],
            "parc": row["parc"],
            "loss": row["loss"],
            "chance": row["chance"],
            "prior": row["prior"],
            "last_round": row["last_round"],
            "note": f"{row['gflops']:.3g} billion operations"
            + (f", {row['latency_ms']:.3g} ms here" if row["latency_ms"] is not None else ""),
        }
        for row in selection["ranking"]
    ]


def _list_training(info: CheckpointInfo) -> dict[str, Any]:
    names = ("kept", "steps", "epochs", "frozen_groups", "groups", "batchnorm", "views", "budget_cut", "temperature")
    return {name: getattr(info, name) for name in names}


def _show_samples(home: Workspace, split: pd.DataFrame, spec: PreprocessSpec) -> list[Picture]:
    rows = split[split["part"] == "train"].sort_values(["label", "sha256"]).groupby("label").head(SAMPLES_PER_CLASS)
    hashes = list(rows["sha256"])
    images = [open_input(image, spec).pixels for image in read_images(home.dataset, hashes)]
    sources = _find_paths(home, hashes)
    return [
        Picture(pixels, label, source=source)
        for pixels, label, source in zip(images, rows["label"], sources, strict=True)
    ]


def _show_answers(
    home: Workspace, test: Part, answers: Answers, info: CheckpointInfo, rows: list[int]
) -> list[Picture]:
    hashes, labels = [test.sha256s[row] for row in rows], info.labels
    pictures = []
    for row, image, source in zip(rows, read_images(home.dataset, hashes), _find_paths(home, hashes), strict=True):
        probabilities = answers.probabilities[row]
        best = int(np.argmax(probabilities))
        pixels = open_input(image, info.preprocess).pixels
        pictures.append(Picture(pixels, labels[test.targets[row]], labels[best], float(probabilities[best]), source))
    return pictures


def _show_shifted(home: Workspace, sha256: str, spec: PreprocessSpec) -> list[Picture]:
    (image,) = read_images(home.dataset, [sha256])
    pixels = load_input(image, spec, clip=True)
    return [Picture(pixels, "as it is")] + [Picture(shift.apply(pixels[None], [0])[0], shift.name) for shift in SHIFTS]


def _find_paths(home: Workspace, hashes: list[str]) -> list[str]:
    manifest = read_manifest(home.dataset).drop_duplicates("sha256").set_index("sha256")
    return [str(path) for path in manifest.loc[hashes, "path"]] if hashes else []


def _read_history(path: Path) -> list[dict[str, float]]:
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
