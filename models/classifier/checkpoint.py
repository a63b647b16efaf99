"""The trained network as one module from uint8 pixels to probabilities, and its folder on disk.

A checkpoint can be rebuilt without the backbone it began as: the architecture is in ``checkpoint.json``, every weight
in ``model.safetensors``.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from regraft.models.backbones.intermediate_features import stage_backbone
from regraft.models.backbones.network import (
    BackboneError,
    Normalization,
    build_architecture,
    compare_weights,
    read_weights,
)
from regraft.models.compute.device import is_convolutional
from regraft.models.features.frozen_pass import normalise_pixels
from regraft.models.features.linear_probe import Probe
from regraft.serving.decoding.preprocess import PreprocessSpec
from regraft.serving.files.durable import replace_folder, write_bytes, write_json

INFO_FILE = "checkpoint.json"
WEIGHTS_FILE = "model.safetensors"
PLAIN_HEAD_FILE = "plain_head.safetensors"
HISTORY_FILE = "history.csv"


class CheckpointError(RuntimeError):
    """A checkpoint folder is incomplete, altered or of another format."""

    exit_code = 1


class Classifier(nn.Module):
    """Normalise, backbone, standardise, linear head, temperature. D features, K classes, S pixels a side."""

    def __init__(self, backbone: nn.Module, normalization: Normalization, features: int, classes: int) -> None:
        """Start with a head of zeros and a standardiser that changes nothing."""
        super().__init__()
        self.backbone = backbone
        self.normalization = normalization
        self.head = nn.Linear(features, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("pixel_mean", torch.tensor(normalization.mean).view(1, 3, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(normalization.std).view(1, 3, 1, 1))
        self.register_buffer("feature_mean", torch.zeros(features))
        self.register_buffer("feature_std", torch.ones(features))
        self.register_buffer("temperature", torch.ones(()))
        self.channels_last = is_convolutional(backbone)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return probabilities ``(B, K)`` with temperature, embedding ``(B, D)`` and raw logits ``(B, K)``.

        Args:
            pixels: uint8 ``(B, S, S, 3)`` as ``regraft.serving.decoding.preprocess.prepare_image`` gives them.
        """
        embedding = self.embed(pixels)
        logits = self.score(embedding)
        return torch.softmax(logits / self.temperature, dim=1), embedding, logits

    def embed(self, pixels: Tensor) -> Tensor:
        """Return the embedding ``(B, D)`` of uint8 pixels ``(B, S, S, 3)``."""
        images = normalise_pixels(pixels, self.pixel_mean, self.pixel_std)
        return self.backbone(images if self.channels_last else images.contiguous())

    def score(self, embedding: Tensor) -> Tensor:
        """Return logits ``(B, K)`` of embeddings ``(B, D)``."""
        # Not folded into the head: a dead channel's tiny deviation would explode the weights that training moves.
        return self.head((embedding - self.feature_mean) / self.feature_std)

    def adjust(self, offsets: np.ndarray) -> None:
        """Subtract ``offsets`` ``(K,)`` from the logits, for good."""
        with torch.no_grad():
            self.head.bias -= torch.from_numpy(offsets).to(self.head.bias)

    def load_probe(self, probe: Probe) -> None:
        """Take standardiser and head from a fitted probe."""
        with torch.no_grad():
            for ours, theirs in (
                (self.feature_mean, probe.mean),
                (self.feature_std, probe.std),
                (self.head.weight, probe.weight),
                (self.head.bias, probe.bias),
            ):
                ours.copy_(torch.from_numpy(theirs))


class BackboneOrigin(BaseModel, frozen=True, extra="forbid"):
    """Which pretrained weights a checkpoint began from."""

    name: str
    sha256: str
    licence: str
    source: str


class ValidationFigures(BaseModel, frozen=True, extra="forbid"):
    """A head's figures on the validation part: accuracy with its 95 % Wilson interval, 0-1, and log loss in nats."""

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    loss: float
    n: int


class HeadFigures(BaseModel, frozen=True, extra="forbid"):
    """How the linear head came to be fitted as it is: on training images held out fold by fold.

    Attributes:
        views: Views of each image that it was fitted on; 0 where views were no gain, or none were tried.
        horizontal, vertical: Whether images mirrored so were among them.
        clean: Balanced accuracy, 0-1, of the head as it is kept, on the images as they are; None where none were tried.
        clean_plain: Likewise without views.
        shifted, shifted_plain: Likewise on views of the images, the mean over the views.
        reason: In words.
    """

    views: int = 0
    horizontal: bool = False
    vertical: bool = False
    clean: float | None = None
    clean_plain: float | None = None
    shifted: float | None = None
    shifted_plain: float | None = None
    reason: str = "views of the images were not asked for"


class ImbalanceFigures(BaseModel, frozen=True, extra="forbid"):
    """What was made of classes of different size: on training images held out fold by fold.

    Attributes:
        ratio: Images of the largest class over those of the smallest.
        way: "logit_adjustment" answers as if all classes were equally frequent.
        balanced_plain, balanced_adjusted: Balanced accuracy, 0-1, without and with; None where it was not tried.
        worst_plain, worst_adjusted: Likewise the recall of the class with the least.
        reason: In words.
    """

    ratio: float = 1.0
    way: Literal["plain", "logit_adjustment"] = "plain"
    balanced_plain: float | None = None
    balanced_adjusted: float | None = None
    worst_plain: float | None = None
    worst_adjusted: float | None = None
    reason: str = "not asked for"


class CheckpointInfo(BaseModel, frozen=True, extra="forbid"):
    """Everything about a checkpoint that is not a weight.

    ``share`` is that of the fine-tuned weights, 0-1, the rest is the probe's network; older checkpoints have a
    ``best_epoch`` instead.
    """

    format: Literal[1] = 1
    labels: list[str]
    backbone: BackboneOrigin
    backbone_config: dict[str, Any]
    preprocess: PreprocessSpec
    normalization: dict[Literal["mean", "std"], tuple[float, float, float]]
    embedding_dims: int
    taps: list[float]
    kept: Literal["probe", "finetuned"]
    reason: str
    steps: int
    epochs: int
    best_epoch: int = 0
    share: float = 0.0
    frozen_groups: int
    groups: int
    views: int
    batchnorm: Literal["none", "frozen", "trained"]
    budget_cut: bool
    budget_reason: str
    gained: int
    lost: int
    p_value: float
    strength: float
    head: HeadFigures = HeadFigures()
    imbalance: ImbalanceFigures = ImbalanceFigures()
    temperature: float
    validation: dict[str, ValidationFigures]
    weights_sha256: str = ""
    plain_head_sha256: str = ""

    def describe_normalization(self) -> Normalization:
        """Return the colour normalisation as the network takes it."""
        return Normalization(self.normalization["mean"], self.normalization["std"])


def save_checkpoint(
    classifier: Classifier, info: CheckpointInfo, history: str, into: Path, plain_head: Probe | None = None
) -> CheckpointInfo:
    """Write the checkpoint folder ``into`` atomically; return the info with the hashes of the weights.

    Args:
        classifier: Its state is written as float32 safetensors, in the order of names.
        info: Everything else; ``weights_sha256`` and ``plain_head_sha256`` are filled in.
        history: Content of ``history.csv``.
        into: The folder, replaced as a whole.
        plain_head: The head on the same network that was fitted without views; None where it is the one that ships,
            or where the network was trained after it.
    """
    temporary = into.with_name(f".{into.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    state = {name: value.detach().cpu().contiguous() for name, value in sorted(classifier.state_dict().items())}
    save_file(state, temporary / WEIGHTS_FILE)
    hashes = {"weights_sha256": _hash(temporary / WEIGHTS_FILE), "plain_head_sha256": ""}
    if plain_head is not None:
        save_file(_list_tensors(plain_head), temporary / PLAIN_HEAD_FILE)
        hashes["plain_head_sha256"] = _hash(temporary / PLAIN_HEAD_FILE)
    info = info.model_copy(update=hashes)
    write_json(temporary / INFO_FILE, info.model_dump(mode="json"))
    write_bytes(temporary / HISTORY_FILE, history.encode())
    replace_folder(temporary, into)
    return info


def read_checkpoint_info(folder: Path) -> CheckpointInfo:
    """Return ``checkpoint.json`` of a checkpoint folder.

    Raises:
        CheckpointError: If it is absent or of another format.
    """
    try:
        return CheckpointInfo.model_validate(json.loads((folder / INFO_FILE).read_text()))
    except (OSError, ValueError, ValidationError) as exc:
        raise CheckpointError(
            f"{folder / INFO_FILE} cannot be read as a checkpoint ({exc}). Run finetune again."
        ) from exc


def load_checkpoint(folder: Path) -> tuple[Classifier, CheckpointInfo]:
    """Return the trained network in eval mode on the CPU and its info.

    Raises:
        CheckpointError: If the folder is incomplete, the weights were altered or do not fit the architecture.
    """
    info = read_checkpoint_info(folder)
    path = folder / WEIGHTS_FILE
    _check_file(path, info.weights_sha256)
    try:
        backbone = build_architecture(info.backbone_config)
        if info.taps:
            backbone = stage_backbone(backbone.eval(), info.preprocess.size_px, info.taps)
        weights = read_weights(path)
    except BackboneError as exc:
        raise CheckpointError(f"checkpoint {folder} cannot be rebuilt: {exc}") from exc
    classifier = Classifier(backbone, info.describe_normalization(), info.embedding_dims, len(info.labels))
    problems = compare_weights(weights, classifier.state_dict())
    if problems:
        raise CheckpointError(f"{path} does not fit {info.backbone_config['architecture']}: " + "; ".join(problems))
    classifier.load_state_dict(weights)
    return classifier.eval(), info


def load_plain_head(folder: Path, info: CheckpointInfo) -> Probe | None:
    """Return the head that was fitted without views, None where the checkpoint keeps none.

    Raises:
        CheckpointError: If it is absent or altered.
    """
    if not info.plain_head_sha256:
        return None
    path = folder / PLAIN_HEAD_FILE
    _check_file(path, info.plain_head_sha256)
    kept = {name: tensor.numpy() for name, tensor in load_file(path).items()}
    return Probe(kept["weight"], kept["bias"], kept["mean"], kept["std"], float(kept["c"]))


def _list_tensors(probe: Probe) -> dict[str, Tensor]:
    arrays = {"bias": probe.bias, "mean": probe.mean, "std": probe.std, "weight": probe.weight}
    tensors = {name: torch.from_numpy(array).contiguous() for name, array in arrays.items()}
    return tensors | {"c": torch.tensor(probe.c, dtype=torch.float64)}


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "absent"


def _check_file(path: Path, stated: str) -> None:
    if (found := _hash(path)) != stated:
        raise CheckpointError(f"{path} is {found}, but {INFO_FILE} says {stated}. Run finetune again.")
