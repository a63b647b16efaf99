"""The drift reference: its directions, its counts, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest

from regraft.data.drift.reference import KEYS, Reference, build_reference, fit_components, read_reference
from regraft.serving.decoding.quality import QUALITY_NAMES


def make_arrays(n: int = 40, width: int = 6, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Return embeddings, softmax, quality and labels of n images."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    embeddings = rng.normal(size=(n, width)) * np.linspace(3, 1, width)
    softmax = rng.dirichlet(np.ones(classes), n)
    return embeddings, softmax, rng.normal(size=(n, len(QUALITY_NAMES))), labels


def test_a_reference_has_exactly_the_arrays_of_the_bundle_format_and_survives_a_file(tmp_path: Path) -> None:
    arrays = build_reference(*make_arrays(), dims=4)
    assert sorted(arrays) == sorted(KEYS)
    np.savez(tmp_path / "reference.npz", **arrays)
    read = read_reference(tmp_path / "reference.npz")
    assert read.quality_names == QUALITY_NAMES
    assert read.embeddings.shape == (40, 4) and read.embedding_components.shape == (4, 6)
    assert np.array_equal(read.confusion, arrays["confusion"])


def test_stored_embeddings_are_what_the_runtime_would_reduce_to() -> None:
    embeddings, *rest = make_arrays()
    arrays = build_reference(embeddings, *rest, dims=3)
    reduced = (embeddings - arrays["embedding_mean"]) @ arrays["embedding_components"].T
    assert np.allclose(reduced, arrays["embeddings"], atol=1e-5)


def test_directions_are_orthonormal_ordered_and_do_not_depend_on_the_sign_of_the_solver() -> None:
    embeddings = make_arrays()[0]
    _, components = fit_components(embeddings, 4)
    assert np.allclose(components @ components.T, np.eye(4))
    assert (np.diff(((embeddings - embeddings.mean(0)) @ components.T).var(axis=0)) < 0).all()
    _, mirrored = fit_components(-embeddings, 4)
    assert np.allclose(components, mirrored)
    assert (components[np.arange(4), np.abs(components).argmax(axis=1)] > 0).all()


def test_directions_can_be_fitted_on_other_images() -> None:
    other = make_arrays(seed=1)[0]
    arrays = build_reference(*make_arrays(), dims=3, basis=other)
    assert np.allclose(arrays["embedding_mean"], other.mean(axis=0), atol=1e-6)


def test_few_images_keep_fewer_directions() -> None:
    assert build_reference(*make_arrays(n=4), dims=16)["embedding_components"].shape == (3, 6)


def test_the_confusion_counts_true_classes_in_rows() -> None:
    softmax = np.eye(3)[[0, 1, 1, 2]]
    embeddings, _, quality, _ = make_arrays(n=4)
    arrays = build_reference(embeddings, softmax, quality, np.array([0, 0, 1, 2]))
    assert arrays["confusion"].tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert Reference.of(arrays).accuracy == 0.75


def test_all_problems_are_named_at_once() -> None:
    embeddings, softmax, quality, labels = make_arrays()
    embeddings[0, 0] = np.nan
    with pytest.raises(ValueError, match=r"embeddings has 1 values.*quality has shape.*labels run from 0 to 9"):
        build_reference(embeddings, softmax, quality[:5], np.where(labels == 0, 9, 0))


def test_an_incomplete_file_is_refused_by_the_names_it_lacks() -> None:
    arrays = build_reference(*make_arrays())
    del arrays["softmax"], arrays["confusion"]
    with pytest.raises(ValueError, match="softmax, confusion"):
        Reference.of(arrays)
