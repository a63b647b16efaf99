"""What a window of production is compared with: held-out answers, reduced and stored as ``reference.npz``."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from regraft.serving.decoding.quality import QUALITY_NAMES

KEYS = (
    "embedding_mean",
    "embedding_components",
    "embeddings",
    "softmax",
    "quality",
    "quality_names",
    "labels",
    "confusion",
)


@dataclass(frozen=True, slots=True)
class Reference:
    """Held-out answers a version was accepted on: N images, K classes, P reduced of D embedding dims, Q figures."""

    embedding_mean: np.ndarray
    """Origin of the reduction, ``(D,)``."""
    embedding_components: np.ndarray
    """Orthonormal directions of the reduction, ``(P, D)``."""
    embeddings: np.ndarray
    """Reduced embeddings, ``(N, P)``."""
    softmax: np.ndarray
    """Probabilities, ``(N, K)``."""
    quality: np.ndarray
    """Quality figures, ``(N, Q)``."""
    quality_names: tuple[str, ...]
    """Names of the Q figures."""
    labels: np.ndarray
    """True classes, ``(N,)``, integers below K."""
    confusion: np.ndarray
    """Counts by true class (rows) and predicted class (columns), ``(K, K)``."""

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> "Reference":
        """Return the reference that these arrays, as ``build_reference`` makes them, describe.

        Raises:
            ValueError: If a key is missing; all missing keys are named.
        """
        missing = [key for key in KEYS if key not in arrays]
        if missing:
            raise ValueError(f"the drift reference lacks {', '.join(missing)}; export the bundle again")
        values = {key: arrays[key] for key in KEYS}
        values["quality_names"] = tuple(str(name) for name in arrays["quality_names"])
        return cls(**values)

    @property
    def accuracy(self) -> float:
        """Share of the reference images the model got right, 0-1."""
        return float(np.trace(self.confusion) / max(1, self.confusion.sum()))


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers of a version that nobody labelled, as the prediction log keeps them; M images."""

    embeddings: np.ndarray
    """Reduced, ``(M, P)``."""
    softmax: np.ndarray
    """``(M, K)``."""
    quality: np.ndarray
    """``(M, Q)``."""


def widen_reference(reference: Reference, states: Sequence[Answers]) -> list[Reference]:
    """Return what a window may look like too: each of the later ``states`` by itself, and all with the reference.

    The confusion stays that of the reference: how answers and truth belong together is known of labelled images only.
    """
    if not states:
        return []
    first = Answers(reference.embeddings, reference.softmax, reference.quality)
    together = [*states, _join([first, *states])]
    return [
        replace(
            reference,
            embeddings=state.embeddings,
            softmax=state.softmax,
            quality=state.quality,
            labels=np.nan_to_num(state.softmax, nan=-1.0).argmax(axis=1),
        )
        for state in together
    ]


def _join(states: Sequence[Answers]) -> Answers:
    return Answers(*(np.concatenate([getattr(each, name) for each in states]) for name in Answers.__slots__))


def fit_components(embeddings: np.ndarray, dims: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean ``(D,)`` and the ``min(dims, N - 1, D)`` leading principal directions ``(P, D)``.

    The entry of largest magnitude of each direction is positive, so that equal input gives equal signs.
    """
    mean = embeddings.mean(axis=0)
    _, _, directions = np.linalg.svd(embeddings - mean, full_matrices=False)
    directions = directions[: max(1, min(dims, len(embeddings) - 1, embeddings.shape[1]))]
    peaks = directions[np.arange(len(directions)), np.abs(directions).argmax(axis=1)]
    return mean, directions * np.where(peaks < 0, -1.0, 1.0)[:, None]


def count_confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return counts ``(K, K)`` by true class (rows) and predicted class (columns)."""
    pairs = labels.astype(np.int64) * classes + predicted
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def find_problems(embeddings: np.ndarray, softmax: np.ndarray, quality: np.ndarray, labels: np.ndarray) -> list[str]:
    """Return every reason why these arrays cannot become a reference; empty when they can."""
    problems = []
    for name, array in (("embeddings", embeddings), ("softmax", softmax), ("quality", quality)):
        if array.ndim != 2 or len(array) != len(labels):
            problems.append(f"{name} has shape {array.shape}, expected ({len(labels)}, columns) like labels")
        elif not np.isfinite(array).all():
            problems.append(f"{name} has {int((~np.isfinite(array)).sum())} values that are NaN or infinite")
    if len(labels) < 2:
        problems.append(f"{len(labels)} held-out images, at least 2 are needed")
    elif softmax.ndim == 2 and (labels.min() < 0 or labels.max() >= softmax.shape[1]):
        problems.append(f"labels run from {labels.min()} to {labels.max()}, softmax has {softmax.shape[1]} columns")
    return problems


def build_reference(
    embeddings: np.ndarray,
    softmax: np.ndarray,
    quality: np.ndarray,
    labels: np.ndarray,
    *,
    dims: int = 16,
    basis: np.ndarray | None = None,
    quality_names: Sequence[str] = QUALITY_NAMES,
) -> dict[str, np.ndarray]:
    """Return the arrays of ``reference.npz`` for N held-out images, in float32.

    Args:
        embeddings: What the served model put out, ``(N, D)``.
        softmax: Its probabilities, ``(N, K)``.
        quality: ``regraft.serving.decoding.quality`` figures of the images, ``(N, Q)``.
        labels: True classes, ``(N,)`` integers.
        dims: Directions kept.
        basis: Embeddings ``(M, D)`` of OTHER images (validation) to fit the directions on. Directions fitted on the
            reference itself spread the reference wider than new images, which the tests would then call drift.
        quality_names: Names of the Q columns.

    Raises:
        ValueError: If shapes disagree or values are not finite; all problems at once.
    """
    labels = np.asarray(labels, np.int64)
    problems = find_problems(embeddings, softmax, quality, labels)
    if not problems and quality.shape[1] != len(quality_names):
        problems.append(f"quality has {quality.shape[1]} columns, expected {len(quality_names)}")
    if problems:
        raise ValueError("no drift reference can be built: " + "; ".join(problems))
    full = np.asarray(embeddings, np.float64)
    mean, components = fit_components(full if basis is None else np.asarray(basis, np.float64), dims)
    return {
        "embedding_mean": mean.astype(np.float32),
        "embedding_components": components.astype(np.float32),
        "embeddings": ((full - mean) @ components.T).astype(np.float32),
        "softmax": np.asarray(softmax, np.float32),
        "quality": np.asarray(quality, np.float32),
        "quality_names": np.array(list(quality_names)),
        "labels": labels,
        "confusion": count_confusion(labels, np.argmax(softmax, axis=1), softmax.shape[1]),
    }


def read_reference(path: Path) -> Reference:
    """Return the reference stored in the ``.npz`` file at ``path``.

    Raises:
        ValueError: If the file lacks a key.
    """
    with np.load(path, allow_pickle=False) as stored:
        return Reference.of({key: stored[key] for key in stored.files})
