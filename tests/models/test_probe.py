import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from regraft.models.features.directions import find_directions, measure_spread
from regraft.models.features.linear_probe import (
    Folds,
    cross_validate,
    fit_logistic,
    fit_path,
    fit_probe,
    make_folds,
    sum_log_loss,
)
from regraft.models.heads.temperature import fit_temperature


def draw(n, dims, classes, seed=0, gap=1.0):
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = generator.normal(0, gap, (classes, dims))
    return (centres[labels] + generator.normal(0, 1, (n, dims))).astype(np.float32), labels


@pytest.mark.parametrize(("n", "dims", "classes"), [(60, 8, 3), (60, 8, 2), (24, 60, 3)])
def test_fit_equals_scikit_learn(n, dims, classes):
    x, y = draw(n, dims, classes)
    weight, bias = fit_logistic(x, y, classes, 0.1)
    truth = LogisticRegression(C=0.1, tol=1e-8, max_iter=5000).fit(x.astype(np.float64), y)
    scores = x @ weight.T + bias
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, truth.predict_proba(x.astype(np.float64)), atol=2e-3)


def test_probe_separates_what_can_be_separated():
    x, y = draw(90, 12, 3, gap=4)
    probe = fit_probe(x[:60], y[:60], classes=3, c=0.1)
    assert (probe.score(x[60:]).argmax(axis=1) == y[60:]).mean() == 1


@pytest.mark.parametrize(("n", "dims"), [(40, 90), (90, 40)])
def test_directions_keep_every_distance(n, dims):
    x, _ = draw(n, dims, 3)
    reduced, basis = find_directions(x, most=min(n, dims))
    assert reduced.shape == (n, min(n, dims))
    np.testing.assert_allclose(reduced @ reduced.T, x @ x.T, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(reduced, x @ basis, rtol=1e-4, atol=1e-2)
    few, _ = find_directions(x, most=7)
    np.testing.assert_allclose(np.abs(few), np.abs(reduced[:, :7]), atol=1e-6)


def test_out_of_fold_logits_are_those_of_probes_fitted_without_the_image():
    x, y = draw(30, 6, 3)
    found = cross_validate(x, y, classes=3, cs=(0.01, 0.1))
    mean, std = measure_spread(x)
    standard = (x - mean) / std
    for train, held in make_folds(y, 5, 0):
        weight, bias = fit_logistic(standard[train], y[train], 3, found.c)
        logits = standard[held] @ weight.T + bias
        theirs = found.logits[held]
        np.testing.assert_allclose(
            theirs - theirs.mean(1, keepdims=True), logits - logits.mean(1, keepdims=True), atol=0.02
        )
    assert found.losses[found.c] == min(found.losses.values())
    assert found.losses[found.c] == pytest.approx(sum_log_loss(found.logits.astype(float), y) / 30, rel=1e-5)


def test_several_repeats_say_the_mean_of_what_each_says():
    x, y = draw(20, 6, 2, gap=0.3)
    single = [cross_validate(x, y, classes=2, cs=(0.1,), folds=Folds(seed=seed)) for seed in (3, 4, 5)]
    found = cross_validate(x, y, classes=2, cs=(0.1,), folds=Folds(repeats=3, seed=3))
    assert len({each.losses[0.1] for each in single}) > 1
    assert found.losses[0.1] == pytest.approx(np.mean([each.losses[0.1] for each in single]))
    np.testing.assert_allclose(np.exp(found.logits), np.mean([softmax(s.logits, axis=1) for s in single], 0), atol=1e-6)


def test_every_step_of_a_path_ends_where_a_fresh_fit_does():
    x, y = draw(60, 8, 3)
    for c, (weight, bias) in zip((0.001, 0.1), fit_path(x, y, 3, (0.001, 0.1)), strict=True):
        fresh, start = fit_logistic(x, y, 3, c)
        np.testing.assert_allclose(x @ weight.T + bias, x @ fresh.T + start, atol=0.02)


def test_blocks_weigh_alike_however_wide_they_are():
    x, _ = draw(200, 12, 2)
    mean, std = measure_spread(x, widths=(10, 2))
    energy = (((x - mean) / std) ** 2).sum(axis=0)
    assert energy[:10].sum() == pytest.approx(energy[10:].sum(), rel=0.05)
    assert energy.sum() == pytest.approx(200 * 12, rel=0.05)


def test_noise_asks_for_the_strongest_penalty():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(80, 30)).astype(np.float32), np.arange(80) % 2
    found = cross_validate(x, y, classes=2)
    assert found.c == min(found.losses) == 0.0003


def test_fits_are_equal_bit_for_bit():
    x, y = draw(60, 80, 3)
    one, two = (fit_probe(x, y, classes=3, c=0.1) for _ in range(2))
    assert one.weight.tobytes() == two.weight.tobytes()
    assert one.bias.tobytes() == two.bias.tobytes()


def test_a_dead_channel_is_not_blown_up():
    x, _ = draw(50, 10, 2)
    x[:, 3] = 1e-9 * np.arange(50)
    std = measure_spread(x)[1]
    assert std[3] == pytest.approx(0.1 * np.median(x.std(axis=0)), rel=1e-3)


def test_a_class_without_images_is_named():
    x, y = draw(20, 4, 2)
    with pytest.raises(ValueError, match=r"classes \[2\] of 3"):
        fit_probe(x, y, classes=3, c=0.1)


def test_log_loss_equals_scikit_learn():
    generator = np.random.default_rng(1)
    logits, labels = generator.normal(size=(40, 4)), generator.integers(0, 4, 40)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert sum_log_loss(logits, labels) == pytest.approx(40 * log_loss(labels, probabilities, labels=range(4)))


def test_temperature_recovers_the_overconfidence_put_in():
    generator = np.random.default_rng(2)
    logits = generator.normal(0, 2, (4000, 3))
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (chances.cumsum(axis=1) > generator.random((4000, 1))).argmax(axis=1)
    assert fit_temperature(3 * logits, labels) == pytest.approx(3, rel=0.06)
    assert fit_temperature(logits / 2, labels) == pytest.approx(0.5, rel=0.06)


def test_a_validation_part_without_mistakes_does_not_ask_for_certainty():
    for sure in (2, 4, 20):
        logits = sure * np.eye(3)[np.arange(12) % 3]
        stated = softmax(logits[0] / fit_temperature(logits, np.arange(12) % 3)).max()
        assert stated == pytest.approx((12 + 1 / 3) / 13, abs=0.03)  # twelve right, and one that could be any


def test_temperature_refuses_logits_that_are_not_finite():
    with pytest.raises(ValueError, match="finite"):
        fit_temperature(np.array([[np.nan, 1.0]]), np.array([0]))
