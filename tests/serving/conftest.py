"""Fixtures of the ground floor: tiny real bundles (mean colour -> linear -> softmax), sealed and loadable."""

import contextlib
import io
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from regraft.serving.bundle.format import hash_labels, seal_bundle
from regraft.serving.decoding.preprocess import PreprocessSpec, load_input
from regraft.serving.decoding.quality import QUALITY_NAMES, measure_quality

LABELS = ["red", "green", "blue"]
SPEC = PreprocessSpec(size_px=16, fit="squash", interpolation="bilinear")
COLOURS = np.array([[220, 30, 30], [30, 220, 30], [30, 30, 220]], dtype=np.uint8)


def _weights(count: int, bias: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a weight (3, K) that prefers red, green, blue, and a bias (K,) that prefers the first label."""
    weight = np.zeros((3, count), dtype=np.float32)
    for label in range(count):
        weight[label % 3, label] = 8.0
    offset = np.zeros(count, dtype=np.float32)
    offset[0] = bias
    return weight, offset


def _graph(labels: list[str], bias: float, spec: PreprocessSpec) -> onnx.ModelProto:
    weight, offset = _weights(len(labels), bias)
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "scale"], ["unit"]),
        helper.make_node("ReduceMean", ["unit", "axes"], ["embedding"], keepdims=0),
        helper.make_node("Gemm", ["embedding", "weight", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    constants = {"scale": np.float32(255), "axes": np.array([1, 2]), "weight": weight, "bias": offset}
    size, count = spec.size_px, len(labels)
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["B", size, size, 3])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["B", count]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["B", 3]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", count]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    metadata = {"preprocess_sha256": spec.sha256, "labels_sha256": hash_labels(labels)}
    helper.set_model_props(model, metadata)
    return model


def _encode(pixels: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def _answer(data: bytes, labels: list[str], bias: float, spec: PreprocessSpec) -> np.ndarray:
    """Return the probabilities in plain numpy: an independent truth for the graph."""
    weight, offset = _weights(len(labels), bias)
    logits = load_input(data, spec).reshape(-1, 3).mean(axis=0) / 255 @ weight + offset
    exponential = np.exp(logits - logits.max())
    return exponential / exponential.sum()


def _write_reference(path: Path, count: int) -> None:
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 255, (16, 16, 3), dtype=np.uint8) for _ in range(12)]
    np.savez(
        path,
        embedding_mean=np.full(3, 0.5, dtype=np.float32),
        embedding_components=np.eye(2, 3, dtype=np.float32),
        embeddings=generator.normal(size=(12, 2)).astype(np.float32),
        softmax=generator.dirichlet(np.ones(count), 12).astype(np.float32),
        quality=np.stack([measure_quality(image) for image in images]),
        quality_names=np.array(QUALITY_NAMES),
        labels=np.arange(12) % count,
        confusion=np.eye(count, dtype=np.int64) * 4,
    )


def build_bundle(
    folder: Path, labels: list[str] = LABELS, bias: float = 0.0, spec: PreprocessSpec = SPEC, name: str = "colours"
) -> Path:
    """Write a sealed bundle that names the dominant colour; ``bias`` pulls towards the first label."""
    (folder / "golden").mkdir(parents=True)
    answers = []
    for number, colour in enumerate(COLOURS):
        pixels = np.clip(colour + np.random.default_rng(number).integers(-20, 20, (24, 20, 3)), 0, 255).astype(np.uint8)
        data = _encode(pixels, "PNG")
        probabilities = _answer(data, labels, bias, spec)
        (folder / "golden" / f"{number:02d}.png").write_bytes(data)
        answer = {"file": f"{number:02d}.png", "label": labels[int(probabilities.argmax())]}
        answers.append(answer | {"probabilities": probabilities.tolist()})
    (folder / "golden" / "answers.json").write_text(json.dumps(answers))
    (folder / "model.onnx").write_bytes(_graph(labels, bias, spec).SerializeToString())
    (folder / "report.html").write_text("<!doctype html><title>tiny</title>")
    (folder / "CARD.md").write_text("# tiny\n")
    _write_reference(folder / "reference.npz", len(labels))
    backbone = {"name": "mean.colour", "sha256": "0" * 64, "licence": "Apache-2.0", "source": "embedded"}
    seal_bundle(
        folder,
        {
            "name": name,
            "labels": labels,
            "preprocess": spec,
            "backbone": backbone,
            "metrics": {"test": {"accuracy": 1.0}},
            "embedding_dims": 3,
        },
    )
    return folder


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., Path]:
    """Return a builder of tiny bundles: ``make_bundle(folder, labels, bias) -> folder``."""
    return build_bundle


@pytest.fixture(scope="session")
def colour_image() -> Callable[..., bytes]:
    """Return a maker of images of one colour: ``colour_image("green", size=(40, 30), kind="JPEG") -> bytes``."""

    def make(label: str, size: tuple[int, int] = (40, 30), kind: str = "JPEG", shade: int = 0) -> bytes:
        pixels = np.empty((size[1], size[0], 3), dtype=np.uint8)
        pixels[:] = COLOURS[LABELS.index(label)] + shade
        return _encode(pixels, kind)

    return make


@pytest.fixture
def count_answers() -> Callable[..., int]:
    """Return a function that counts the answers in a prediction log, of one version if it is named."""

    def count(path: Path, version: str | None = None) -> int:
        with contextlib.closing(sqlite3.connect(path)) as log:
            query = "SELECT count(*) FROM predictions WHERE ?1 IS NULL OR version = ?1"
            return int(log.execute(query, (version,)).fetchone()[0])

    return count
