"""What a trained classifier says of images: probabilities, embeddings and logits, in batches."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from regraft.models.classifier.checkpoint import Classifier
from regraft.models.compute.device import DeviceName, choose_device, full_precision, limit_threads, place_module
from regraft.models.features.extract import take_batch
from regraft.serving.files.durable import write_bytes


@dataclass(frozen=True, slots=True)
class Answers:
    """N images, K classes, D features; all float32."""

    probabilities: np.ndarray
    """After temperature scaling, ``(N, K)``."""
    embedding: np.ndarray
    """``(N, D)``."""
    logits: np.ndarray
    """Before temperature scaling, ``(N, K)``."""


def write_answers(path: Path, answers: Answers) -> None:
    """Write the arrays to ``path`` (npz), atomically; equal answers give equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, probabilities=answers.probabilities, embedding=answers.embedding, logits=answers.logits)
    write_bytes(path, buffer.getvalue())


def read_answers(path: Path) -> Answers:
    """Return what ``write_answers`` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return Answers(arrays["probabilities"], arrays["embedding"], arrays["logits"])


def answer_pixels(
    classifier: Classifier,
    pixels: np.ndarray,
    *,
    batch_size: int = 32,
    device: DeviceName = "cpu",
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Answers:
    """Return what ``classifier`` says of uint8 pixels ``(N, S, S, 3)``, computed in float32.

    Args:
        classifier: A trained network; left in eval mode on the device.
        pixels: Images as ``regraft.serving.decoding.preprocess`` prepares them, usually a memory map.
        batch_size: Images at once.
        device: Where to compute: on CUDA without TF32, so that other devices repeat all but the last digits.
        threads: CPU threads; another number gives other last digits.
        progress: Called with (images done, images in all).

    Raises:
        DeviceError: If "cuda" is asked for and absent.
        ValueError: If there is no image.
    """
    if len(pixels) == 0:
        raise ValueError("no images to answer: 0 were given.")
    target = choose_device(device)
    classifier = place_module(classifier, target).eval()
    parts: list[tuple[Tensor, ...]] = []
    with limit_threads(threads), torch.inference_mode(), full_precision(target):
        for start in range(0, len(pixels), batch_size):
            rows = np.arange(start, min(start + batch_size, len(pixels)))
            parts.append(classifier(take_batch(pixels, rows, target)))
            if progress is not None:
                progress(int(rows[-1]) + 1, len(pixels))
        return Answers(*(torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)))
