"""Stage ``export``: the servable bundle, written only if ONNX answers as torch does."""

import io
import json
import shutil
from pathlib import Path

import numpy as np

from regraft.data.dataset.manifest import read_manifest
from regraft.data.dataset.shards import read_images
from regraft.data.drift.reference import build_reference
from regraft.models.classifier.checkpoint import CheckpointInfo, load_checkpoint
from regraft.models.classifier.predictions import Answers, read_answers
from regraft.models.export.model_card import CARD_FILE, Origins, render_card
from regraft.models.export.onnx import CheckImages, ExportConfig, export_onnx
from regraft.models.report.report import ReportContent, render_report
from regraft.serving.bundle.format import ANSWERS_FILE, REFERENCE_FILE, BundleDraft, seal_bundle
from regraft.serving.decoding.quality import QUALITY_NAMES
from regraft.serving.files.durable import replace_folder, write_bytes, write_json
from regraft.tasks.graph.graph import stage
from regraft.tasks.graph.part_arrays import Part, read_part, read_pixels
from regraft.tasks.graph.progress import show_progress
from regraft.tasks.reporting.content import gather_content
from regraft.tasks.settings.knobs import read_section
from regraft.tasks.workspace.workspace import Workspace


@stage
def export(home: Workspace) -> None:
    """Write the bundle beside its place, prove it, and put it there whole.

    Raises:
        ParityError: If ONNX and torch disagree on a held-out image; the former bundle then stays.
    """
    config = read_section(home.params, "export", ExportConfig)
    classifier, info = load_checkpoint(home.checkpoint)
    test, answers = read_part(home, "test"), read_answers(home.evaluation / "test.npz")
    folder = home.bundle.with_name(".bundle.tmp")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pixels = read_pixels(home, test.sha256s, info.preprocess)
    with show_progress("checking ONNX against torch") as progress:
        parity = export_onnx(
            classifier,
            info.preprocess,
            info.labels,
            folder,
            CheckImages(pixels, answers.probabilities),
            config,
            progress=progress,
        )
    write_golden(home, folder, test, answers, config.golden_images)
    write_reference(home, folder, test, answers, config.reference_dims)
    content = gather_content(home, info, test, answers, parity)
    render_report(folder, content)
    card = render_card(
        name=content.name,
        metrics=content.metrics,
        origins=Origins(content.backbone, info.preprocess.model_dump(), content.parity, content.lineage),
        split=content.split,
        certificate=content.certificate,
        notes=content.notes,
        judged=content.judged,
    )
    write_bytes(folder / CARD_FILE, card.encode())
    seal_bundle(folder, draft_bundle(home, info, content, parity.to_json()))
    replace_folder(folder, home.bundle)


def write_golden(home: Workspace, folder: Path, test: Part, answers: Answers, count: int) -> None:
    """Write held-out images, as they came, with torch's probabilities: spread over the test part in hash order."""
    rows = np.unique(np.linspace(0, len(test.rows) - 1, min(count, len(test.rows))).astype(int))
    golden = []
    images = read_images(home.dataset, [test.sha256s[row] for row in rows])
    for number, (row, image) in enumerate(zip(rows, images, strict=True)):
        name = f"{number:02d}.img"  # what it is shows in its bytes; the served path reads nothing else
        write_bytes(folder / "golden" / name, image)
        probabilities = [float(p) for p in answers.probabilities[row]]
        golden.append({"file": name, "label": test.rows["label"][row], "probabilities": probabilities})
    write_json(folder / ANSWERS_FILE, golden)


def write_reference(home: Workspace, folder: Path, test: Part, answers: Answers, dims: int) -> None:
    """Write what drift will be compared with: the test part, along directions that the validation part spans."""
    manifest = read_manifest(home.dataset).drop_duplicates("sha256").set_index("sha256")
    quality = manifest.loc[test.sha256s, [f"q_{name}" for name in QUALITY_NAMES]].to_numpy(dtype=np.float32)
    arrays = build_reference(
        answers.embedding,
        answers.probabilities,
        quality,
        test.targets,
        dims=dims,
        basis=read_answers(home.evaluation / "validation.npz").embedding,
    )
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_bytes(folder / REFERENCE_FILE, buffer.getvalue())


def draft_bundle(home: Workspace, info: CheckpointInfo, content: ReportContent, parity: dict) -> BundleDraft:
    """Return what the files of the bundle do not say themselves."""
    metrics = json.loads((home.evaluation / "metrics.json").read_text())
    return BundleDraft(
        name=content.name,
        labels=info.labels,
        preprocess=info.preprocess,
        backbone=info.backbone.model_dump(),
        metrics={part: metrics[part] for part in ("test", "classes", "shifts") if part in metrics},
        certificate=dict(content.certificate),
        lineage=dict(content.lineage),
        parity=parity,
        temperature=info.temperature,
        normalization={name: list(values) for name, values in info.normalization.items()},
        embedding_dims=info.embedding_dims,
    )
