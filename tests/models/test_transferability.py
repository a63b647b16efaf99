import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import spearmanr
from sklearn.covariance import LedoitWolf

from regraft.models.features.directions import measure_spread
from regraft.models.selection.ranking import bootstrap_best, mean_ranks
from regraft.models.selection.transferability import (
    PENALTIES,
    decompose,
    knn_hits,
    log_maximum_evidence,
    parc,
    ridge_hits,
    score_all,
    shrunk_h_score,
)

SHAPES = [(60, 12, 3), (30, 50, 3), (40, 40, 2), (31, 30, 4)]


def draw(n, dims, classes, seed=0, gap=0.8):
    """Return skewed, rectified features, one of them dead, and labels of unequal classes, the last with one image."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.minimum(np.arange(n) * classes // (n - 1), classes - 1))
    labels[labels == classes - 1] = 0
    labels[n // 2] = classes - 1
    scales = generator.uniform(0.2, 5, dims)
    features = (generator.normal(0, gap, (classes, dims))[labels] + generator.normal(0, 1, (n, dims))) * scales
    features[:, 0] = 1e-9 * np.arange(n)
    return np.maximum(features + 1, 0).astype(np.float32), labels


def scale(features):
    scaled = features.astype(np.float64) / measure_spread(features)[1].astype(np.float64)
    return scaled - scaled.mean(axis=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_nearest_neighbours_equal_a_loop(shape):
    features, labels = draw(*shape)
    x, hits = scale(features), []
    for i in range(len(x)):
        cosines = [x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j]) if j != i else -2 for j in range(len(x))]
        hits.append(labels[int(np.argmax(cosines))] == labels[i])
    np.testing.assert_array_equal(knn_hits(decompose(features), labels), hits)
    assert 0.3 < np.mean(hits) < 1


def refit_without(x, targets, i, penalty):
    """Return the scores of image i from a ridge regression that has really not seen it."""
    keep = np.arange(len(x)) != i
    mean_x, mean_y = x[keep].mean(axis=0), targets[keep].mean(axis=0)
    centred = x[keep] - mean_x
    weight = np.linalg.solve(centred.T @ centred + penalty * np.eye(x.shape[1]), centred.T @ (targets[keep] - mean_y))
    return (x[i] - mean_x) @ weight + mean_y


@pytest.mark.parametrize("shape", SHAPES)
def test_ridge_equals_refits_that_leave_each_image_out(shape):
    features, labels = draw(*shape)
    x, targets = scale(features), np.eye(shape[2])[labels]
    powers = np.linalg.eigvalsh(x.T @ x)
    mean_power = powers[powers > 1e-9 * powers.max()].mean()
    refits = {
        penalty: np.stack([refit_without(x, targets, i, penalty * mean_power) for i in range(len(x))])
        for penalty in PENALTIES
    }
    errors = {penalty: np.sum((targets - scores) ** 2) for penalty, scores in refits.items()}
    found = ridge_hits(decompose(features), labels)
    assert found.penalty == min(errors, key=errors.get)
    np.testing.assert_allclose(found.scores, refits[found.penalty], rtol=1e-6, atol=1e-8)
    np.testing.assert_array_equal(found.hits, refits[found.penalty].argmax(axis=1) == labels)


def test_a_class_with_one_image_is_never_hit():
    features, labels = draw(40, 10, 3, gap=8)
    scores = score_all(features, labels)
    assert not scores.knn_hits[labels == 2].any()
    assert not scores.ridge.hits[labels == 2].any()
    assert scores.ridge.hits[labels < 2].all()


@pytest.mark.parametrize("shape", SHAPES)
def test_h_score_equals_scikit_learns_covariance_inverted(shape):
    features, labels = draw(*shape)
    x = scale(features)
    fit = LedoitWolf().fit(x)
    means = np.stack([x[labels == label].mean(axis=0) for label in labels])  # of each image's class
    truth = (1 - fit.shrinkage_) * np.trace(np.linalg.inv(fit.covariance_) @ (means.T @ means / len(x)))
    assert shrunk_h_score(decompose(features), labels) == pytest.approx(truth, rel=1e-6)


def test_h_score_of_one_feature_is_its_explained_share():
    labels = np.arange(40) % 2
    features = (labels + np.random.default_rng(0).normal(size=40))[:, None].astype(np.float32)
    x = features[:, 0] - features.mean()
    truth = sum(x[labels == k].mean() ** 2 for k in (0, 1)) / 2 / x.var()
    assert shrunk_h_score(decompose(features), labels) == pytest.approx(truth, rel=1e-6)


def negative_evidence(logs, x, y):
    """Return minus the log evidence as You et al. print it, whole D x D determinants, on the N - 1 contrasts of y."""
    (alpha, beta), (n, dims) = np.exp(logs), x.shape
    a = alpha * np.eye(dims) + beta * x.T @ x
    m = beta * np.linalg.solve(a, x.T @ y)
    evidence = dims / 2 * np.log(alpha) + (n - 1) / 2 * np.log(beta / (2 * np.pi)) - np.linalg.slogdet(a)[1] / 2
    return -(evidence - beta / 2 * np.sum((y - x @ m) ** 2) - alpha / 2 * m @ m)


@pytest.mark.parametrize("shape", SHAPES)
def test_evidence_equals_a_free_maximisation(shape):
    features, labels = draw(*shape)
    x, total = scale(features), 0.0
    for k in range(shape[2]):
        y = (labels == k) - np.mean(labels == k)
        starts = [(np.log(x.shape[1]) + a, b) for a in (-2, 3) for b in (1, 4)]
        fits = [
            minimize(negative_evidence, start, (x, y), "Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9})
            for start in starts
        ]
        total -= min(fit.fun for fit in fits)
    assert log_maximum_evidence(decompose(features), labels) == pytest.approx(total / shape[2] / len(x), rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_parc_equals_scipy_on_all_pairs(shape):
    features, labels = draw(*shape)
    above = np.triu_indices(len(labels), 1)
    unlike = 1 - np.corrcoef(scale(features))[above]
    differ = 1 - np.corrcoef(np.eye(shape[2])[labels])[above]
    truth = spearmanr(unlike, differ.round(9)).statistic
    assert parc(decompose(features), labels) == pytest.approx(truth, rel=1e-6)


def test_parc_takes_an_even_choice_of_many_images():
    features, labels = draw(900, 8, 3)
    few = np.sort(np.argsort(labels, kind="stable")[np.arange(500) * 900 // 500])
    assert abs(np.mean(labels[few] == 0) - np.mean(labels == 0)) < 0.002
    scaled = scale(features)
    truth = spearmanr(
        1 - np.corrcoef(scaled[few])[np.triu_indices(500, 1)],
        (labels[few][:, None] != labels[few])[np.triu_indices(500, 1)],
    ).statistic
    assert parc(decompose(features), labels) == pytest.approx(truth, rel=1e-6)


def test_every_score_falls_with_shuffled_labels():
    features, labels = draw(90, 30, 3)
    right, wrong = (score_all(features, each) for each in (labels, np.random.default_rng(1).permutation(labels)))
    assert right.knn_hits.mean() > wrong.knn_hits.mean() + 0.1
    assert right.ridge.hits.mean() > wrong.ridge.hits.mean() + 0.1
    assert right.log_evidence > wrong.log_evidence
    assert right.h_score > wrong.h_score
    assert right.parc > wrong.parc + 0.1


def test_scores_are_equal_bit_for_bit():
    features, labels = draw(50, 80, 3)
    one, two = score_all(features, labels), score_all(features, labels)
    assert (one.log_evidence, one.h_score, one.parc) == (two.log_evidence, two.h_score, two.parc)
    assert one.ridge.scores.tobytes() == two.ridge.scores.tobytes()


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (np.ones((6, 3), np.float32), np.arange(6) % 2, "all 6 images have the same"),
        (np.full((6, 3), np.nan, np.float32), np.arange(6) % 2, "NaN or infinite"),
        (np.eye(6, dtype=np.float32), np.zeros(6, np.int64), "two classes"),
        (np.eye(6, dtype=np.float32), np.arange(5) % 2, r"\(6, 6\) and labels \(5,\)"),
    ],
)
def test_what_cannot_be_scored_is_named(features, labels, message):
    with pytest.raises(ValueError, match=message):
        score_all(features, labels)


def test_the_best_is_as_likely_as_resampling_says():
    generator = np.random.default_rng(3)
    good, bad = generator.random(60) < 0.8, generator.random(60) < 0.6
    found = bootstrap_best({"good": good, "bad": bad, "twin": good}, draws=400, seed=1)
    assert found["good"] == found["twin"]  # the same hits share every win
    assert sum(found.values()) == pytest.approx(1)
    gap = good.mean() - bad.mean()
    error = np.std(good.astype(float) - bad) / np.sqrt(60)
    chance = np.mean(generator.normal(gap, error, 100_000) < 0)
    assert found["bad"] == pytest.approx(chance, abs=0.05)
    assert found == bootstrap_best({"good": good, "bad": bad, "twin": good}, draws=400, seed=1)


def test_candidates_must_have_seen_the_same_images():
    with pytest.raises(ValueError, match=r"\[3, 4\]"):
        bootstrap_best({"a": np.ones(3), "b": np.ones(4)})


def test_ranks_share_ties_and_the_unknown_stands_in_the_middle():
    columns = {
        "knn": {"a": 0.9, "b": 0.7, "c": 0.7, "d": 0.1},
        "prior": {"a": None, "b": 0.8, "c": 0.7, "d": 0.6},
        "record": {"a": None, "b": None, "c": None, "d": None},
    }
    assert mean_ranks(columns) == {"a": (1 + 2) / 2, "b": (2.5 + 1) / 2, "c": (2.5 + 2) / 2, "d": (4 + 3) / 2}


def test_ranks_of_nothing_known_are_equal():
    assert mean_ranks({"prior": {"a": None, "b": None}}) == {"a": 1.0, "b": 1.0}
    with pytest.raises(ValueError, match="score knn holds NaN"):
        mean_ranks({"knn": {"a": float("nan")}})
