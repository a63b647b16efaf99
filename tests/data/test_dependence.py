"""Neighbours that resemble each other: how much they say, and no more alarms for it than were promised."""

import numpy as np
import pytest

from regraft.data.drift.dependence import measure_dependence
from regraft.data.drift.statistics import compare_classes, compare_column


def draw_series(rng: np.random.Generator, rows: int, correlation: float, columns: int = 8) -> np.ndarray:
    """Return rows ``(rows, columns)`` of unit variance whose neighbours have this correlation."""
    values = np.zeros((rows + 100, columns))
    fresh = rng.normal(size=values.shape)
    for row in range(1, len(values)):
        values[row] = correlation * values[row - 1] + np.sqrt(1 - correlation**2) * fresh[row]
    return values[100:]


@pytest.mark.parametrize("rows", [100, 400])
@pytest.mark.parametrize(("correlation", "truth"), [(0.0, 1.0), (0.5, 3.0), (0.9, 19.0)])
def test_dependence_is_that_of_the_series(rows, correlation, truth) -> None:
    rng = np.random.default_rng(1)
    found = [measure_dependence(draw_series(rng, rows, correlation)).mean() for _ in range(40)]
    assert np.mean(found) == pytest.approx(truth, rel=0.25)
    assert min(found) >= 1


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_a_quiet_line_raises_no_more_than_promised_however_alike_its_neighbours(correlation) -> None:
    rng, small = np.random.default_rng(2), 0
    for _ in range(150):
        window, reference = draw_series(rng, 200, correlation), rng.normal(size=1000)
        told = measure_dependence(window)
        small += sum(compare_column(reference, window[:, each], None, told[each])[1] <= 0.02 for each in range(8))
    assert small <= 0.02 * 1200 + 3 * np.sqrt(0.02 * 1200 * (3 if correlation else 1))


def test_without_it_the_same_line_would_cry_wolf() -> None:
    rng = np.random.default_rng(3)
    small = 0
    for _ in range(50):
        window, reference = draw_series(rng, 200, 0.9, 1)[:, 0], rng.normal(size=1000)
        small += compare_column(reference, window)[1] <= 0.02
    assert small > 25


def test_bursts_of_one_part_count_once() -> None:
    rng = np.random.default_rng(4)
    parts = np.repeat(rng.normal(size=(40, 6)), 5, axis=0) + 0.1 * rng.normal(size=(200, 6))
    assert 4 < measure_dependence(parts).mean() < 12


def test_a_change_is_still_found_among_neighbours_that_are_alike() -> None:
    rng = np.random.default_rng(5)
    window = draw_series(rng, 400, 0.5, 1)[:, 0] + 1.0
    assert compare_column(rng.normal(size=1000), window, None, float(measure_dependence(window[:, None])[0]))[1] < 1e-6


def test_columns_that_never_vary_and_short_windows_say_nothing() -> None:
    rng = np.random.default_rng(6)
    values = np.column_stack([np.ones(50), rng.normal(size=50), np.full(50, np.nan)])
    found = measure_dependence(values)
    assert found[0] == found[2] == 1 and found[1] >= 1
    assert list(measure_dependence(np.ones((2, 3)))) == [1, 1, 1]
    assert measure_dependence(np.ones((50, 0))).shape == (0,)


def test_classes_that_come_in_runs_are_no_other_mix() -> None:
    rng = np.random.default_rng(7)
    reference, runs = rng.integers(0, 4, 1000), np.repeat(rng.integers(0, 4, 12), 20)
    told = float(measure_dependence(np.eye(4)[runs]).max())
    assert compare_classes(reference, runs, 4) < 1e-4
    assert compare_classes(reference, runs, 4, told) > 0.01
