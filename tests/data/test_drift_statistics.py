"""The statistics under a drift verdict, against scipy and against truths worked out by hand."""

import numpy as np
import pytest
from scipy import stats

from regraft.data.drift.statistics import (
    compare_classes,
    compare_column,
    compare_columns,
    correct_holm,
    estimate_accuracy,
    estimate_weights,
    measure_distance,
    pool_rare,
)


@pytest.mark.parametrize(("n", "m", "shift"), [(250, 50, 0.0), (250, 200, 0.4), (40, 300, 0.1)])
def test_kolmogorov_smirnov_agrees_with_scipy(n: int, m: int, shift: float) -> None:
    rng = np.random.default_rng(n + m)
    old, new = rng.normal(size=n), np.round(rng.normal(shift, size=m), 1)
    statistic, p_value = compare_column(old, new)
    truth = stats.ks_2samp(old, new, method="asymp")
    assert statistic == pytest.approx(truth.statistic, abs=1e-12)
    assert p_value == pytest.approx(truth.pvalue, rel=1e-9)


def test_a_weighted_distance_equals_the_distance_to_a_repeated_sample() -> None:
    rng = np.random.default_rng(0)
    old, new, weights = rng.normal(size=30), rng.normal(size=20), rng.integers(1, 4, size=30)
    assert measure_distance(old, new, weights) == pytest.approx(measure_distance(np.repeat(old, weights), new))


def test_equal_weights_change_nothing_and_uneven_ones_cost_evidence() -> None:
    rng = np.random.default_rng(1)
    old, new = rng.normal(size=200), rng.normal(0.5, size=100)
    assert compare_column(old, new, np.full(200, 0.3)) == pytest.approx(compare_column(old, new))
    uneven = np.where(np.arange(200) < 20, 20.0, 0.1)
    assert compare_column(old, old, uneven)[1] > 0.05


def test_nan_in_the_window_counts_as_a_change_and_does_not_raise() -> None:
    old, new = np.linspace(0, 1, 200), np.linspace(0, 1, 100)
    broken = np.where(np.arange(100) < 50, np.nan, new)
    assert compare_column(old, new)[1] > 0.5
    assert compare_column(old, broken)[1] < 1e-6
    assert compare_column(np.full(50, np.nan), np.full(50, np.nan)) == (0.0, 1.0)


def test_a_constant_column_is_quiet_until_it_takes_another_value_and_costs_no_correction() -> None:
    rng = np.random.default_rng(2)
    old, new = rng.normal(size=(200, 1)), rng.normal(size=(100, 1))
    alone = compare_columns(old, new, ["a"]).p_value
    still = compare_columns(np.hstack([old, np.full((200, 1), 14.0)]), np.hstack([new, np.full((100, 1), 14.0)]), "ab")
    moved = compare_columns(np.hstack([old, np.full((200, 1), 14.0)]), np.hstack([new, np.full((100, 1), 13.0)]), "ab")
    assert still.p_value == pytest.approx(alone)
    assert still.columns[1].p_value == 1.0
    assert moved.p_value < 1e-9


def test_a_family_is_corrected_for_its_columns() -> None:
    rng = np.random.default_rng(3)
    family = compare_columns(rng.normal(size=(200, 8)), rng.normal(size=(100, 8)), "abcdefgh")
    smallest = min(column.p_value for column in family.columns)
    assert family.p_value == pytest.approx(min(1.0, 8 * smallest))


def test_a_family_raises_no_more_false_alarms_than_promised() -> None:
    rng = np.random.default_rng(4)
    p_values = [
        compare_columns(rng.normal(size=(100, 4)), rng.normal(size=(60, 4)), "abcd").p_value for _ in range(150)
    ]
    assert np.mean(np.array(p_values) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 150)


def test_classes_in_equal_shares_are_quiet_and_a_tripled_class_is_not() -> None:
    rng = np.random.default_rng(5)
    old = rng.choice(4, 400)
    assert compare_classes(old, rng.choice(4, 200), 4) > 0.01
    assert compare_classes(old, rng.choice(4, 200, p=[0.5, 0.2, 0.2, 0.1]), 4) < 1e-4


def test_the_class_test_agrees_with_scipy_when_nothing_is_rare() -> None:
    old, new = np.repeat([0, 1, 2], [50, 60, 40]), np.repeat([0, 1, 2], [20, 20, 40])
    truth = stats.chi2_contingency([[50, 60, 40], [20, 20, 40]], correction=False).pvalue
    assert compare_classes(old, new, 3) == pytest.approx(truth)


def test_rare_classes_are_pooled_until_every_expected_count_is_five() -> None:
    table = pool_rare(np.array([[100, 3, 2, 1, 0], [50, 1, 1, 0, 0]]))
    assert table.sum() == 158
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    assert table.shape[1] == 1 or expected.min() >= 5


def test_one_class_only_has_nothing_to_compare() -> None:
    assert compare_classes(np.zeros(100, int), np.zeros(50, int), 3) == 1.0


def test_class_weights_recover_a_known_mix() -> None:
    confusion = np.array([[90, 10, 0], [5, 90, 5], [0, 10, 90]])
    rates = confusion / confusion.sum(axis=1, keepdims=True)
    truth = np.array([0.6, 0.3, 0.1])
    weights = estimate_weights(confusion, truth @ rates, ridge=1e-4)
    assert weights / 3 == pytest.approx(truth, abs=1e-3)


def test_class_weights_stay_sane_with_a_class_that_was_never_seen() -> None:
    weights = estimate_weights(np.array([[50, 0, 0], [0, 50, 0], [0, 0, 0]]), np.array([0.5, 0.3, 0.2]))
    assert np.isfinite(weights).all() and (weights >= 0).all()


def test_the_accuracy_estimate_is_right_on_the_reference_and_falls_with_certainty() -> None:
    rng = np.random.default_rng(6)
    softmax = rng.dirichlet([0.2, 0.2, 0.2], size=500)
    confusion = np.array([[150, 10, 7], [8, 150, 9], [8, 8, 150]])
    assert estimate_accuracy(softmax, confusion, softmax) == pytest.approx(0.9, abs=0.01)
    assert estimate_accuracy(softmax, confusion, np.full((50, 3), 1 / 3)) == 0.0


def test_holm_corrects_as_worked_out_by_hand() -> None:
    assert correct_holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
