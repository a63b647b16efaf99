"""Intervals hold the truth as often as they say."""

import numpy as np
import pytest
from scipy.stats import binomtest

from benchmarks.interval_coverage import SCORES, Cell, bound_scores, make_population, measure_cell
from regraft.models.evaluation.evaluate import EvaluateConfig, evaluate_predictions
from regraft.models.statistics.intervals import (
    bootstrap_scores,
    draw_weights,
    effective_interval,
    percentile_interval,
    pseudo_count_interval,
    spread_variance,
    wilson_interval,
)
from regraft.models.statistics.metrics import (
    Counts,
    rank_images,
    score_balanced_accuracy,
    score_macro_f1,
    trace_ranking,
)


def count_classes(weights: np.ndarray, labels: np.ndarray, predicted: np.ndarray, classes: int) -> Counts:
    """Return hits, true and predicted counts of every class for weights ``(R, N)``."""
    eye = np.eye(classes)
    actual, guessed = eye[labels], eye[predicted]
    return Counts(weights @ (actual * guessed), weights @ actual, weights @ guessed)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (7, 12), (349, 360), (1, 1)])
def test_wilson_equals_scipys(successes, n):
    wanted = binomtest(successes, n).proportion_ci(0.95, "wilson")
    low, high = wilson_interval(successes, n)
    assert abs(low - wanted.low) < 1e-12
    assert abs(high - wanted.high) < 1e-12


def test_wilson_of_no_trials_says_nothing():
    assert wilson_interval(0, 0) == (0, 1)


def test_weights_keep_every_stratum_and_the_seed():
    strata = np.array([2, 0, 0, 1, 1, 1, 2, 2])
    weights = np.concatenate(list(draw_weights(strata, 50, seed=3)))
    assert weights.shape == (50, 8)
    for stratum, n in ((0, 2), (1, 3), (2, 3)):
        assert (weights[:, strata == stratum].sum(axis=1) == n).all()
    assert (weights == np.concatenate(list(draw_weights(strata, 50, seed=3)))).all()
    assert (weights != np.concatenate(list(draw_weights(strata, 50, seed=4)))).any()


def test_bootstrap_reports_progress_in_resamples():
    seen = []
    bootstrap_scores(
        lambda w: {"mean": w.sum(axis=1)},
        np.zeros(4000, dtype=int),
        resamples=120,
        seed=0,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (120, 120)
    assert len(seen) > 1


def test_percentile_interval_holds_the_estimate():
    low, high = percentile_interval(np.array([0.2, 0.3, 0.4]), 0.1)
    assert low == 0.1
    assert high > 0.39
    low, high = percentile_interval(np.array([0.2, 0.3, 0.4]), 0.1, centred=True)
    assert low < 0.1 < high < 0.21


def test_perfect_scores_do_not_get_a_perfect_interval():
    low, high = effective_interval(1.0, np.ones(500), 60)
    assert 0.9 < low < 0.95
    assert high == 1


def cover(sizes: list[int], accuracy: float, repeats: int) -> dict[str, float]:
    """Return how often each interval holds the truth over ``repeats`` drawn test sets."""
    rng, classes = np.random.default_rng(1), len(sizes)
    chances = np.full((classes, classes), (1 - accuracy) / (classes - 1))
    np.fill_diagonal(chances, accuracy)
    chances[0, :2] += (-0.03, 0.03)
    labels = np.repeat(np.arange(classes), sizes)
    mean = chances * np.array(sizes)[:, None]
    truth = {
        "accuracy": np.trace(mean) / mean.sum(),
        "balanced": np.diag(chances).mean(),
        "f1": np.mean(2 * np.diag(mean) / (mean.sum(0) + mean.sum(1))),
    }
    held = dict.fromkeys(truth, 0)

    def score(weights):
        counts = count_classes(weights, labels, predicted, classes)
        return {"balanced": score_balanced_accuracy(counts), "f1": score_macro_f1(counts)}

    for seed in range(repeats):
        predicted = (chances[labels].cumsum(axis=1) < rng.random((len(labels), 1))).sum(axis=1)
        samples = bootstrap_scores(score, labels, resamples=300, seed=seed)
        points = score(np.ones((1, len(labels))))
        n = classes**2 / np.sum(1 / np.array(sizes))
        bounds = {name: effective_interval(float(points[name][0]), samples[name], n) for name in points}
        bounds["accuracy"] = wilson_interval(int(np.sum(predicted == labels)), len(labels))
        for name, (low, high) in bounds.items():
            held[name] += low <= truth[name] <= high
    return {name: count / repeats for name, count in held.items()}


def test_intervals_cover_the_truth_in_93_to_97_of_100_test_sets():
    for name, share in cover([40, 40, 40, 40], 0.9, repeats=700).items():
        assert 0.93 <= share <= 0.975, name


def test_intervals_still_cover_when_almost_nothing_is_wrong():
    for name, share in cover([60] * 6, 0.99, repeats=400).items():
        assert share >= 0.925, name


def test_the_percentile_interval_would_not_cover_when_almost_nothing_is_wrong():
    """Why shares near 1 get the other interval: this is the fault the coverage test is there to find."""
    rng, labels, held = np.random.default_rng(2), np.zeros(100, dtype=int), 0
    for seed in range(200):
        correct = rng.random(100) < 0.985
        samples = bootstrap_scores(lambda w, c=correct: {"a": w @ c / 100}, labels, resamples=200, seed=seed)
        low, high = percentile_interval(samples["a"], correct.mean())
        held += low <= 0.985 <= high
    assert held / 200 < 0.9


def test_the_variance_of_a_mean_is_that_of_the_bootstrap_which_keeps_strata():
    rng = np.random.default_rng(0)
    strata = np.repeat([0, 1, 2], [30, 50, 20])
    values = rng.normal(strata, 1 + strata)
    samples = np.concatenate([block @ values / 100 for block in draw_weights(strata, 20_000, seed=0)])
    assert spread_variance((values - values.mean()) / 100, strata) == pytest.approx(samples.var(), rel=0.06)
    assert spread_variance(np.array([0.5, -0.5]), np.array([0, 1])) == 0.5  # no spread within: the distance stands


def test_the_pseudo_count_is_half_an_image_and_fades_with_many_errors():
    low, high = pseudo_count_interval(1.0, 0.0, 60)
    assert (low, high) == pytest.approx([float(bound) for bound in wilson_interval(60, 60)])
    many = pseudo_count_interval(0.7, 0.7 * 0.3 / 100_000, 100_000)
    assert many == pytest.approx([float(bound) for bound in wilson_interval(70_000, 100_000)], abs=1e-6)
    plain = wilson_interval(0.99 * 1e4, 1e4)
    assert pseudo_count_interval(0.99, 0.99 * 0.01 / 1e4, 60)[0] < float(plain[0])


def draw_areas(repeats: int):
    """Yield (area, variance) of test sets 100:100 in which one positive in thirty is ranked anywhere; mean 0.981."""
    rng = np.random.default_rng(3)
    positive = np.arange(200) < 100
    for _ in range(repeats):
        evidence = rng.normal(size=200) + np.where(positive & (rng.random(200) > 1 / 30), 4.0, 0.0)
        curve = trace_ranking(rank_images(evidence, positive))[0]
        yield curve.score, spread_variance(curve.influence, positive.astype(int))


def test_intervals_of_areas_near_1_cover_and_without_the_pseudo_count_would_not():
    drawn = list(draw_areas(600))
    truth = 29 / 30 * 0.997661 + 1 / 30 * 0.5  # of the normal distribution: Phi(4 / sqrt(2)), and chance
    counted = [pseudo_count_interval(area, variance, 100) for area, variance in drawn]
    plain = [wilson_interval(area * (size := area * (1 - area) / variance), size) for area, variance in drawn]
    covered, uncovered = (np.mean([low <= truth <= high for low, high in bounds]) for bounds in (counted, plain))
    assert covered >= 0.93
    assert uncovered < 0.92


def test_the_simulation_bounds_scores_as_a_report_does():
    labels, rng = np.repeat([0, 1, 2], 20), np.random.default_rng(0)
    probabilities = rng.dirichlet((1, 1, 1), 60) * 0.5 + np.eye(3)[labels] * 0.5
    config = EvaluateConfig(bootstrap=200)
    weights = np.concatenate(list(draw_weights(labels, 200, seed=config.seed)))
    printed = evaluate_predictions(probabilities, labels, ["a", "b", "c"], config)
    found = {name: (low, high) for name, low, high in bound_scores(probabilities, labels, weights)}
    for name in SCORES:
        assert found[name] == (printed["test"][f"{name}_low"], printed["test"][f"{name}_high"]), name
    assert found["recall 1"] == (printed["classes"][1]["recall_low"], printed["classes"][1]["recall_high"])


def test_the_simulation_finds_the_intervals_that_cover_too_little():
    cell = Cell(classes=2, balanced=True, n=60, accuracy=0.95, mishaps=True)
    assert make_population(cell, members=4000).truth["accuracy"] == pytest.approx(0.95, abs=0.003)
    found = measure_cell(cell, repeats=200, resamples=100)
    assert found["accuracy"].verdict == found["log_loss"].verdict == found["roc_auc"].verdict == "within"
    assert found["plain log_loss"].verdict == found["plain roc_auc"].verdict == "low"
