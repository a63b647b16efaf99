"""What a version keeps under another lamp, lens, sensor or pose, and what it would keep had its head seen no views.

A statement about the version that is made, never a reason for making it: the images are those of the test part, and
nothing is chosen by what is found here. Decision 36.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from regraft.models.classifier.checkpoint import CheckpointInfo, Classifier
from regraft.models.compute.device import choose_device, limit_threads
from regraft.models.evaluation.evaluate import EvaluateConfig
from regraft.models.features.extract import extract_features
from regraft.models.features.frozen_pass import FrozenPass
from regraft.models.features.linear_probe import Probe
from regraft.models.statistics.design import bound_share, count_groups
from regraft.models.statistics.draws import order_rows
from regraft.models.statistics.merits import rate_hits
from regraft.models.statistics.paired import compare_paired
from regraft.models.views.shifts import SHIFTS, Shift

UNSHIFTED = Shift("as they are", "the images as they came", {})
DRAW = 36
"""Of the generator that picks the images: another stream than those of the splits."""


@dataclass(frozen=True, slots=True)
class HeldImages:
    """N test images and what the network makes of them as they are.

    Attributes:
        pixels: uint8 ``(N, S, S, 3)``, usually a memory map.
        labels: True classes, ``(N,)`` integers.
        groups: Group of each image, ``(N,)`` integers.
        embedding: ``(N, D)`` float32, as ``Classifier.embed`` gives it.
    """

    pixels: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    embedding: np.ndarray


def measure_robustness(
    classifier: Classifier,
    plain_head: Probe | None,
    held: HeldImages,
    config: EvaluateConfig,
    shifts: Sequence[Shift] = SHIFTS,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Return the accuracy of the version, and of the plain head on the same network, under each shift.

    Each shifted image passes through the network once; both heads answer the same features.

    Args:
        classifier: The version, in eval mode on the CPU.
        plain_head: Fitted on images as they are alone; None where there is none to compare with.
        held: Test images; at most ``config.shift_images`` of them are drawn, each class in its proportion.
        config: Images, seed, threads, coverage of every interval.
        shifts: What is done to the images.
        progress: Called with (images passed, images in all).

    Returns:
        ``n`` images drawn ``of`` so many, in ``groups`` where they come in groups, ``confidence``, and ``rows``: first
        the images as they are, then each shift with ``name``, ``describes``, ``accuracy``, ``accuracy_low``,
        ``accuracy_high``; with a plain head also ``plain`` likewise and ``gain``, accuracy minus plain, likewise: the
        paired difference. Shares in 0-1.

    Raises:
        ValueError: If there is no image, or ``config.shift_images`` is 0.
    """
    n = min(config.shift_images, len(held.labels))
    if not n:
        raise ValueError("no test images to look at again: evaluate.shift_images is 0, or the test part is empty.")
    drawn = np.sort(order_rows(held.labels, np.arange(len(held.labels)), [config.seed, DRAW])[:n])
    labels, groups = held.labels[drawn], held.groups[drawn]

    def judge(shift: Shift, embedding: np.ndarray) -> dict[str, Any]:
        with torch.inference_mode():
            answered = rate_hits(classifier.score(torch.from_numpy(embedding)).numpy(), labels)
        plain = None if plain_head is None else rate_hits(plain_head.score(embedding), labels)
        figures = bound_answers(answered, plain, labels, groups, config.confidence)
        return {"name": shift.name, "describes": shift.describes, **figures}

    rows = [judge(UNSHIFTED, held.embedding[drawn])]
    with limit_threads(config.threads):
        shifted = embed_shifted(classifier, held.pixels, drawn, shifts, config.seed, progress)
        rows += [judge(shift, embedding) for shift, embedding in zip(shifts, shifted, strict=True)]
    count = count_groups(groups)
    judged = {"n": n, "of": len(held.labels), "confidence": config.confidence}
    return judged | ({} if count is None else {"groups": count}) | {"rows": rows}


def embed_shifted(
    classifier: Classifier,
    pixels: np.ndarray,
    drawn: np.ndarray,
    shifts: Sequence[Shift],
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[np.ndarray]:
    """Yield the embeddings ``(n, D)`` of the images at rows ``drawn`` of ``pixels`` under each shift in turn."""
    n, normalization = len(drawn), classifier.normalization
    frozen = FrozenPass(classifier.backbone, normalization, pixels.shape[1], choose_device("cpu"))
    for number, shift in enumerate(shifts):
        note = None if progress is None else partial(_note, progress, number * n, n * len(shifts))
        change = partial(_apply, shift, seed)
        yield extract_features(frozen, pixels, normalization, rows=drawn, change=change, progress=note)


def _apply(shift: Shift, seed: int, pixels: np.ndarray, first: int) -> np.ndarray:
    return shift.apply(pixels, [seed, first])


def _note(progress: Callable[[int, int], None], passed: int, total: int, done: int, _: int) -> None:
    progress(passed + done, total)


def bound_answers(
    answered: np.ndarray, plain: np.ndarray | None, labels: np.ndarray, groups: np.ndarray, confidence: float
) -> dict[str, float]:
    """Return the share of right answers ``(N,)`` of the version and of the plain head, and their paired difference."""
    found = _name_bounds("accuracy", bound_share(answered, labels, groups, confidence))
    if plain is None:
        return found
    # One stratum: a difference of accuracies, in which every image weighs alike, as in the two shares beside it.
    one, names = np.zeros(len(plain), dtype=np.int64), [str(group) for group in groups]
    gain = compare_paired(plain, answered, one, names, confidence)
    found |= _name_bounds("plain", bound_share(plain, labels, groups, confidence))
    return found | _name_bounds("gain", (gain.value, gain.low, gain.high))


def _name_bounds(name: str, bounds: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), bounds, strict=True))


def explain_single(info: CheckpointInfo) -> str:
    """Return why a version has no plain head to be compared with, in words."""
    if info.kept == "finetuned":
        return "fine-tuning was kept, which moved the network itself: there is no plain head on it to compare with"
    if info.head.views == 0:
        return f"the head that ships is the plain one ({info.head.reason})"
    return "the checkpoint is of before plain heads were kept beside it"
