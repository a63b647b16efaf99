"""Our logistic regression has scikit-learn's optimum, at any conditioning, and gets there in few steps."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from regraft.models.features.directions import find_directions
from regraft.models.features.linear_probe import fit_logistic, fit_path
from regraft.models.features.logistic_regression import fit_softmax


def make_problem(seed, n=150, d=20, classes=4, steepness=3.0):
    """Return features whose directions differ ``10 ** steepness`` fold in strength, labels and row weights."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    x = rng.normal(size=(classes, d))[labels] * 0.5 + rng.normal(size=(n, d))
    x *= np.logspace(0, -steepness / 2, d)
    return x @ np.linalg.qr(rng.normal(size=(d, d)))[0], labels, rng.uniform(0.1, 2, n)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("c", [0.001, 0.1, 10.0])
def test_the_optimum_is_scikit_learns(classes, c):
    x, labels, weights = make_problem(1, classes=classes)
    theirs = LogisticRegression(C=c, max_iter=100_000, tol=1e-10).fit(x, labels, sample_weight=weights)
    weight, bias = fit_logistic(x, labels, classes, c, row_weights=weights)
    truth = theirs.predict_proba(x)
    np.testing.assert_allclose(softmax(x @ weight.T + bias, axis=1), truth, atol=2e-4)


def test_a_row_that_weighs_two_is_that_row_twice():
    x, labels, _ = make_problem(2)
    twice = np.where(np.arange(len(labels)) < 30, 2.0, 1.0)
    once = fit_logistic(x, labels, 4, 0.1, row_weights=twice)
    both = fit_logistic(np.concatenate([x, x[:30]]), np.concatenate([labels, labels[:30]]), 4, 0.1)
    np.testing.assert_allclose(x @ once[0].T + once[1], x @ both[0].T + both[1], atol=5e-3)


def test_few_images_of_many_numbers_are_fitted_in_their_span():
    x, labels, _ = make_problem(3, n=30, d=200)
    weight, bias = fit_logistic(x, labels, 4, 0.1)
    theirs = LogisticRegression(C=0.1, max_iter=100_000, tol=1e-10).fit(x, labels)
    np.testing.assert_allclose(softmax(x @ weight.T + bias, axis=1), theirs.predict_proba(x), atol=2e-4)
    along, basis = find_directions(x)
    assert along.shape[1] <= 30
    np.testing.assert_allclose(along, x @ basis, atol=1e-9)


def test_a_class_without_an_image_is_never_answered():
    x, labels, _ = make_problem(4, classes=3)
    weight, bias = next(fit_path(x, np.where(labels == 1, 3, labels), 4, [0.1]))
    assert set((x @ weight.T + bias).argmax(axis=1)) == {0, 2, 3}


def test_a_fit_that_starts_at_the_optimum_stays_there():
    x, labels, weights = make_problem(5)
    found = fit_softmax(x, labels, 0.1, weights)
    again = fit_softmax(x, labels, 0.1, weights, found)
    np.testing.assert_allclose(x @ (again - found)[:-1], 0, atol=1e-2)
