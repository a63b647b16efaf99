"""A loaded model that has proven itself: hashes verified, warmed up, golden answers reproduced."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from regraft.serving import silence  # noqa: F401
from regraft.serving.bundle.format import (
    ANSWERS_FILE,
    MODEL_FILE,
    REFERENCE_FILE,
    Bundle,
    BundleError,
    BundleInfo,
    open_bundle,
)
from regraft.serving.bundle.ties import find_turned
from regraft.serving.decoding.preprocess import ImageError, load_input

GOLDEN_TOLERANCE = 1e-3
OUTPUTS = ("probabilities", "embedding", "logits")


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """What the model said: probabilities (B, K), embedding (B, D) and logits (B, K), all float32."""

    probabilities: np.ndarray
    embedding: np.ndarray
    logits: np.ndarray


class ModelHandle:
    """One version, ready to answer; immutable and safe to call from several threads."""

    def __init__(
        self, bundle: Bundle, session: onnxruntime.InferenceSession, mean: np.ndarray, components: np.ndarray
    ) -> None:
        self.path: Path = bundle.path
        self.info: BundleInfo = bundle.info
        self._session, self._mean, self._components = session, mean, components

    @classmethod
    def open(cls, folder: Path, threads: int | None = None) -> "ModelHandle":
        """Return the model of a bundle after it has reproduced its golden answers.

        Args:
            folder: The bundle.
            threads: Threads of one inference; default all cores, at most 4.

        Raises:
            BundleError: If hashes, graph or golden answers do not fit.
        """
        bundle = open_bundle(Path(folder))
        try:
            session = _start_session(bundle.path / MODEL_FILE, threads or min(4, os.cpu_count() or 1))
            mean, components = _read_projection(bundle.path / REFERENCE_FILE)
        except Exception as exc:  # onnxruntime's and numpy's errors share no base class
            raise BundleError(bundle.path, [f"the model cannot be loaded: {exc}"]) from exc
        problems = _check_graph(session, bundle.info)
        if components.shape[1:] != (bundle.info.embedding_dims,) or mean.shape != (bundle.info.embedding_dims,):
            problems.append(f"{REFERENCE_FILE} reduces {components.shape[1:]} dims, not {bundle.info.embedding_dims}")
        if problems:
            raise BundleError(bundle.path, problems)
        handle = cls(bundle, session, mean, components)
        handle._check_golden()
        return handle

    def predict(self, batch: np.ndarray) -> ModelOutput:
        """Return the answers for uint8 (B, S, S, 3), as ``regraft.serving.decoding.preprocess.prepare_image`` makes it.

        Raises:
            ValueError: If the batch has another shape or type.
        """
        size = self.info.preprocess.size_px
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1:] != (size, size, 3):
            got = f"{batch.dtype} {batch.shape}"
            raise ValueError(
                f"expected uint8 (B, {size}, {size}, 3), got {got}; use regraft.serving.decoding.preprocess.load_input"
            )
        return ModelOutput(*self._session.run(list(OUTPUTS), {"image": np.ascontiguousarray(batch)}))

    def reduce(self, embedding: np.ndarray) -> np.ndarray:
        """Return float32 (B, P) of (B, D) with the principal components of the reference."""
        return ((embedding - self._mean) @ self._components.T).astype(np.float32)

    def _check_golden(self) -> None:
        """Predict the golden images as they are served: all as one batch, the first also alone; this warms up too."""
        answers, batch = self._read_golden()
        expected = np.array([answer["probabilities"] for answer in answers], dtype=np.float64)
        problems = []
        for count in sorted({1, len(batch)}):
            got, wanted = self.predict(batch[:count]).probabilities, expected[:count]
            if got.shape != wanted.shape or not np.isfinite(got).all():
                raise BundleError(self.path, [f"golden answers have shape {got.shape} or are not finite"])
            if not (worst := float(np.abs(got - wanted).max())) <= GOLDEN_TOLERANCE:
                problems.append(f"golden answers differ by {worst:.2g} in a batch of {count}, over {GOLDEN_TOLERANCE}")
            if (wrong := int(find_turned(wanted, got, GOLDEN_TOLERANCE).sum())) > 0:
                problems.append(f"{wrong} of {count} golden images get another label")
        if problems:
            raise BundleError(self.path, problems)

    def _read_golden(self) -> tuple[list[dict], np.ndarray]:
        try:
            answers = json.loads((self.path / ANSWERS_FILE).read_bytes())
            images = [(self.path / "golden" / answer["file"]).read_bytes() for answer in answers]
            batch = np.stack([load_input(image, self.info.preprocess) for image in images])
        except (OSError, ValueError, KeyError, TypeError, ImageError) as exc:
            raise BundleError(self.path, [f"the golden images cannot be read: {exc!r}"]) from exc
        return answers, batch


def _start_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # idle threads would eat the decoders' cores
    return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])


def _read_projection(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path, allow_pickle=False) as reference:
        return reference["embedding_mean"].astype(np.float32), reference["embedding_components"].astype(np.float32)


def _check_graph(session: onnxruntime.InferenceSession, info: BundleInfo) -> list[str]:
    """Return what keeps the graph from being the one that ``info`` describes."""
    inputs = {value.name: value for value in session.get_inputs()}
    outputs = {value.name for value in session.get_outputs()}
    size = info.preprocess.size_px
    problems = [f"the graph has no output {name!r}" for name in OUTPUTS if name not in outputs]
    if set(inputs) != {"image"}:
        problems.append(f"the graph's inputs are {sorted(inputs)}, not ['image']")
    elif inputs["image"].type != "tensor(uint8)" or list(inputs["image"].shape[1:]) != [size, size, 3]:
        problems.append(
            f"the input is {inputs['image'].type} {inputs['image'].shape}, not uint8 [B, {size}, {size}, 3]"
        )
    elif isinstance(inputs["image"].shape[0], int):
        problems.append("the graph's batch size is fixed; export it with a dynamic first axis")
    metadata = session.get_modelmeta().custom_metadata_map
    for key in ("preprocess_sha256", "labels_sha256"):
        if metadata.get(key) != getattr(info, key):
            problems.append(f"the graph was made for {key} {metadata.get(key)}, the bundle says {getattr(info, key)}")
    return problems
