"""A few random labels settle whether a change did harm: as seldom wrongly as stated, and with as few as possible."""

import math

import numpy as np
import pytest

from regraft.data.drift.audit import Audit, judge_audit
from regraft.data.drift.config import MONTH_S, WatchConfig
from regraft.data.drift.slow_change import add_window, count_windows, find_limit

SIZES = {"step": 10, "most": 30}


def run_audit(rng: np.random.Generator, accepted: float, present: float) -> Audit:
    """Label as many as are wanted, again and again, where ``present`` is the share of right answers now."""
    right = wrong = 0
    while (audit := judge_audit(right, wrong, accepted, 0.15, **SIZES)).outcome == "open":
        new = audit.wanted - audit.labels
        assert 0 < new <= 10
        hits = int(np.sum(rng.random(new) < present))
        right, wrong = right + hits, wrong + new - hits
    return audit


@pytest.mark.parametrize(
    ("accepted", "present", "outcome", "share", "labels"),
    [
        (0.997, 0.997, "no harm", 0.98, 22),
        (0.95, 0.95, "no harm", 0.92, 28),
        (0.95, 0.75, "harm", 0.94, 21),
        (0.95, 0.45, "harm", 0.995, 11),
        (0.997, 0.8, "harm", 0.95, 17),
    ],
)
def test_an_audit_is_right_as_often_as_it_says_with_few_labels(accepted, present, outcome, share, labels) -> None:
    rng = np.random.default_rng(0)
    audits = [run_audit(rng, accepted, present) for _ in range(400)]
    assert np.mean([audit.outcome == outcome for audit in audits]) >= share
    assert np.mean([audit.labels for audit in audits]) <= labels
    assert max(audit.labels for audit in audits) <= 30


def test_without_a_label_nothing_is_decided() -> None:
    assert judge_audit(0, 0, 0.95, 0.15, **SIZES) == Audit("open", 0, 0, 10)
    assert judge_audit(0, 0, 0.95, 0.15, step=10, most=0).outcome == "open"


def test_an_audit_asks_in_steps_and_not_beyond_its_most() -> None:
    assert judge_audit(9, 0, 0.95, 0.15, **SIZES).wanted == 10
    assert judge_audit(10, 1, 0.95, 0.15, **SIZES).wanted == 20
    assert judge_audit(20, 2, 0.95, 0.15, step=25, most=30).wanted == 25
    assert judge_audit(28, 2, 0.95, 0.15, **SIZES).outcome == "no harm"
    assert judge_audit(26, 4, 0.95, 0.15, **SIZES).outcome == "harm"


def test_a_version_without_a_known_mistake_is_not_condemned_by_its_first() -> None:
    assert judge_audit(9, 1, 1.0, 0.15, **SIZES).outcome == "open"
    assert judge_audit(29, 1, 1.0, 0.15, **SIZES).outcome == "no harm"


def test_the_limit_of_slow_change_is_crossed_as_seldom_as_asked() -> None:
    rng, limit, runs = np.random.default_rng(0), find_limit(300), []
    for _ in range(150):
        total, windows = 0.0, 0
        while total <= limit:
            total, windows = add_window(total, rng.random()), windows + 1
        runs.append(windows)
    assert np.mean(runs) == pytest.approx(300, rel=0.25)  # the mean of 150 has a standard error of 8 %
    assert count_windows(limit) == pytest.approx(300)


def test_slow_change_is_found_within_a_few_windows() -> None:
    total, windows = 0.0, 0
    while total <= find_limit(1440):
        total, windows = add_window(total, 0.02), windows + 1
    assert windows <= 4
    assert add_window(0.0, 1.0) == 0.0
    assert math.isfinite(add_window(3.0, 0.0))


def test_thresholds_follow_from_the_false_alarms_of_a_month() -> None:
    config = WatchConfig(false_alarms_per_month=1)
    assert config.limit_chance(720) == pytest.approx(0.5 / 720)
    assert config.limit_chance(MONTH_S / 300) < config.limit_chance(720)
    assert config.count_quiet(720) == pytest.approx(1440)
    assert config.limit_chance(0.1) == 0.05
