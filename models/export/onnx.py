"""Checkpoint to ONNX: the same bytes on every export, and the proof that they answer as torch does.

Temperature and colour normalisation are inside the graph; decoding and resizing are ``serving.decoding.preprocess``.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from pydantic import BaseModel, Field

from regraft.models.compute.onnx_runtime import quiet_exporter, start_session
from regraft.serving.bundle.format import (  # its package silences onnxruntime, so before it is imported
    MODEL_FILE,
    hash_labels,
)
from regraft.serving.bundle.ties import find_turned
from regraft.serving.decoding.preprocess import PreprocessSpec
from regraft.serving.files.durable import write_bytes

OUTPUTS = ("probabilities", "embedding", "logits")
logger = logging.getLogger(__name__)


class ExportConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How the served graph is written and checked."""

    name: str = Field("images", min_length=1)
    """What the learning problem is called in reports and cards."""
    golden_images: int = Field(16, ge=1, le=256)
    """Held-out images that travel with the bundle and that a server must answer alike before it is ready."""
    reference_dims: int = Field(16, ge=1, le=256)
    """Directions of the embedding that the drift reference keeps."""
    opset: int = Field(20, ge=18, le=23)
    """ONNX operator set."""
    tolerance: float = Field(1e-3, gt=0, lt=0.5)
    """Largest difference of a probability between torch and ONNX that is accepted."""
    batch_size: int = Field(7, ge=1)
    """Images a batch of the parity check; it differs from the exported batch on purpose."""


class ExportError(RuntimeError):
    """The network could not be written as ONNX."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Parity:
    """Torch against ONNX: ``equal`` needs every arg-max equal and no probability further off than ``threshold``.

    Where the two classes are tied within ``threshold``, either is the arg-max.
    """

    decision: Literal["equal", "different"]
    reason: str
    n: int
    max_abs_diff: float
    argmax_equal: bool
    threshold: float
    batch_size: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


class ParityError(RuntimeError):
    """The ONNX model does not answer as the torch model does; there must be no bundle. ``parity`` is the verdict."""

    exit_code = 3

    def __init__(self, parity: Parity) -> None:
        self.parity = parity
        super().__init__(f"no bundle was written: {parity.reason}. Choose another backbone, or another export.opset.")

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild from the verdict, so that the error survives a process border."""
        return type(self), (self.parity,)


def _open_batch(size_px: int) -> tuple[tuple[torch.Tensor], tuple[dict[int, torch.export.Dim]]]:
    """Return sample images and what is open in the images' shape: the batch."""
    # Two images: a batch of one would be taken for a constant.
    sample = torch.zeros(2, size_px, size_px, 3, dtype=torch.uint8)
    return (sample,), ({0: torch.export.Dim("batch", min=1, max=4096)},)


@contextlib.contextmanager
def out_of_place(module: torch.nn.Module) -> Iterator[None]:
    """Let activations write into a new tensor: the exporter takes in-place ones apart, at a third of its time."""
    changed = [part for part in module.modules() if getattr(part, "inplace", False) is True]
    for part in changed:
        part.inplace = False
    try:
        yield
    finally:
        for part in changed:
            part.inplace = True


def trace_classifier(classifier: torch.nn.Module, size_px: int, opset: int) -> onnx.ModelProto:
    """Return the ONNX graph of a module (B, S, S, 3) uint8 -> OUTPUTS, with the batch size left open.

    Raises:
        ExportError: If torch cannot export the architecture.
    """
    try:
        images, shapes = _open_batch(size_px)
        with quiet_exporter(), torch.no_grad(), out_of_place(classifier):
            program = torch.onnx.export(
                classifier.eval(),
                images,
                dynamo=True,
                opset_version=opset,
                input_names=["image"],
                output_names=list(OUTPUTS),
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
            )
            return program.model_proto
    except Exception as exc:  # the exporter raises what it likes
        raise ExportError(
            f"torch.onnx could not export {type(classifier).__name__} at {size_px} px, opset {opset}: {exc}. "
            "Choose another backbone, or another export.opset."
        ) from exc


def explain_no_export(classifier: torch.nn.Module, size_px: int) -> str | None:
    """Return why no graph of a classifier can be captured, or None.

    It is the first half of an export and takes a second or two where the whole takes ten. What no graph can hold, a
    path that depends on the data above all, is found here; an operator that ONNX lacks only at the export.
    """
    try:
        images, shapes = _open_batch(size_px)
        with quiet_exporter(), torch.no_grad():
            torch.export.export(classifier.eval(), images, dynamic_shapes=shapes, strict=False)
    except Exception as exc:  # the exporter raises what it likes
        logger.warning("no graph of %s", type(classifier).__name__, exc_info=True)
        return f"no graph of it can be exported ({type(exc).__name__}; the log says more)"
    return None


def strip_graph(graph: onnx.GraphProto) -> None:
    """Remove what depends on the place and moment of the export: stack traces, file names, notes."""
    graph.ClearField("doc_string")
    graph.ClearField("metadata_props")
    for items in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
        for item in items:
            item.ClearField("doc_string")
            item.ClearField("metadata_props")
    for node in graph.node:
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
            if attribute.HasField("g"):
                strip_graph(attribute.g)


def build_onnx(classifier: torch.nn.Module, spec: PreprocessSpec, labels: Sequence[str], opset: int) -> bytes:
    """Return the ONNX file of a classifier: equal weights and labels give equal bytes, wherever it runs."""
    model = trace_classifier(classifier, spec.size_px, opset)
    strip_graph(model.graph)
    model.ClearField("doc_string")
    model.ClearField("metadata_props")
    hashes = {"labels_sha256": hash_labels(list(labels)), "preprocess_sha256": spec.sha256}
    onnx.helper.set_model_props(model, hashes)
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


@dataclass(frozen=True, slots=True)
class CheckImages:
    """Held-out images that ONNX and torch must answer alike.

    Attributes:
        pixels: All of them, uint8 ``(N, S, S, 3)``, usually a memory map.
        expected: Torch's probabilities ``(N, K)`` where they are known; else they are computed.
    """

    pixels: np.ndarray
    expected: np.ndarray | None = None


def judge_parity(wanted: np.ndarray, got: np.ndarray, config: ExportConfig) -> Parity:
    """Compare probabilities ``(N, K)`` of torch and of ONNX."""
    difference = float(np.abs(wanted - got).max()) if np.isfinite(got).all() else float("inf")
    turned = int(find_turned(wanted, got, config.tolerance).sum())
    equal = turned == 0 and difference <= config.tolerance
    return Parity(
        decision="equal" if equal else "different",
        reason=f"torch and ONNX name another class on {turned} of {len(wanted)} images; their probabilities differ by "
        f"at most {difference:.2g}, allowed {config.tolerance:.2g}",
        n=len(wanted),
        max_abs_diff=difference,
        argmax_equal=turned == 0,
        threshold=config.tolerance,
        batch_size=config.batch_size,
    )


def check_parity(
    model: bytes | Path,
    classifier: torch.nn.Module,
    images: CheckImages,
    config: ExportConfig | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Parity:
    """Return the verdict that ONNX and torch answer alike on all images given.

    Args:
        model: The ONNX file or its bytes.
        classifier: The torch module it came from, on the CPU.
        images: All held-out images.
        config: Tolerance and batch size.
        progress: Called with (images done, images in all).

    Raises:
        ParityError: If one arg-max differs, but for ties, or a probability by more than the tolerance.
        ValueError: If there are no images, or the expected answers do not fit them.
    """
    config, pixels, expected = config or ExportConfig(), images.pixels, images.expected
    if len(pixels) == 0 or (expected is not None and len(expected) != len(pixels)):
        raise ValueError(f"parity needs held-out images with an answer each; got {len(pixels)} images.")
    session = start_session(model if isinstance(model, bytes) else model.read_bytes())
    wanted, got = [], []
    for start in range(0, len(pixels), config.batch_size):
        batch = np.ascontiguousarray(pixels[start : start + config.batch_size])
        got.append(session.run(["probabilities"], {"image": batch})[0])
        if expected is None:
            with torch.inference_mode():
                wanted.append(classifier(torch.from_numpy(batch))[0].numpy())
        if progress is not None:
            progress(start + len(batch), len(pixels))
    parity = judge_parity(np.concatenate(wanted) if expected is None else expected, np.concatenate(got), config)
    if parity.decision != "equal":
        raise ParityError(parity)
    return parity


def export_onnx(
    classifier: torch.nn.Module,
    spec: PreprocessSpec,
    labels: Sequence[str],
    into: Path,
    images: CheckImages,
    config: ExportConfig | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Parity:
    """Write ``model.onnx`` into the folder ``into`` after it has proven to answer as torch does.

    Args:
        classifier: uint8 ``(B, S, S, 3)`` -> probabilities ``(B, K)``, embedding ``(B, D)``, logits ``(B, K)``.
        spec: The preprocessing of its images; its hash goes into the file.
        labels: K names in the order of the outputs; their hash goes into the file.
        into: The bundle folder in the making.
        images: All held-out images.
        config: Operator set, tolerance and batch size.
        progress: Called with (images checked, images in all).

    Raises:
        ExportError: If the architecture cannot be exported.
        ParityError: If ONNX and torch disagree; then nothing is written.
    """
    config = config or ExportConfig()
    classifier = classifier.to("cpu").eval()
    model = build_onnx(classifier, spec, labels, config.opset)
    parity = check_parity(model, classifier, images, config, progress=progress)
    write_bytes(into / MODEL_FILE, model)
    logger.info("export done bytes=%d images=%d max_abs_diff=%.2g", len(model), parity.n, parity.max_abs_diff)
    return parity
