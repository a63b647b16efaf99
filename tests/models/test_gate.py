"""The gate promotes what is better, keeps what is worse, and asks for images when it cannot tell."""

import json

import numpy as np
import pytest

from models.gate import GateConfig, compare_versions, judge_first


def make_pair(n, wins, losses, shared_errors=0):
    """Return correctness of champion and challenger with that many differing answers."""
    champion, challenger = np.ones(n, dtype=bool), np.ones(n, dtype=bool)
    champion[:wins] = False
    challenger[wins : wins + losses] = False
    champion[n - shared_errors :] = challenger[n - shared_errors :] = False
    return champion, challenger


def test_a_clear_gain_is_promoted_with_its_numbers():
    verdict = compare_versions(*make_pair(300, wins=30, losses=5))
    assert verdict.decision == "promote"
    assert verdict.statistic == pytest.approx(25 / 300)
    assert 0 < verdict.low < verdict.statistic < verdict.high
    assert (verdict.n, verdict.wins, verdict.losses, verdict.needed) == (300, 30, 5, None)
    assert verdict.p_value < 0.001


def test_a_clear_loss_is_kept_out():
    verdict = compare_versions(*make_pair(300, wins=5, losses=30))
    assert verdict.decision == "keep"
    assert verdict.high < 0
    assert "worse" in verdict.reason


def test_a_small_difference_asks_for_about_as_many_images_as_it_takes():
    verdict = compare_versions(*make_pair(200, wins=9, losses=5))
    assert verdict.decision == "undecided"
    assert verdict.low < 0 < verdict.high
    assert str(verdict.needed) in verdict.reason
    rng, n, config = np.random.default_rng(0), 200 + verdict.needed, GateConfig(resamples=1000)
    settled = 0
    for _ in range(200):
        wins, losses, _ = rng.multinomial(n, [9 / 200, 5 / 200, 186 / 200])
        settled += compare_versions(*make_pair(n, wins, losses), config=config).decision == "promote"
    assert 0.7 <= settled / 200 <= 0.92


def test_equal_answers_are_undecided_not_promoted():
    verdict = compare_versions(*make_pair(100, 0, 0, shared_errors=4))
    assert verdict.decision == "undecided"
    assert (verdict.statistic, verdict.low, verdict.high, verdict.p_value) == (0, 0, 0, 1)
    assert verdict.needed > 0


def test_few_differing_answers_are_not_enough_for_the_bootstrap_alone():
    """Five wins and no loss: the bootstrap's lower bound is above 0, McNemar's exact p is 0.0625."""
    verdict = compare_versions(*make_pair(300, wins=5, losses=0))
    assert verdict.low > 0
    assert verdict.decision == "undecided"


@pytest.mark.parametrize(("lost", "decision"), [(3, "promote"), (4, "keep")])
def test_forgetting_is_judged_just_at_and_just_over_the_threshold(lost, decision):
    champion, challenger = np.ones(300, dtype=bool), np.ones(300, dtype=bool)
    champion[100:160] = False
    challenger[:lost] = False
    old = np.arange(300) < 100
    verdict = compare_versions(champion, challenger, {"old": old, "new": ~old}, GateConfig(max_forgetting=0.03))
    assert verdict.decision == decision
    assert [part.name for part in verdict.slices] == ["new", "old"]
    assert ("forgets" in verdict.reason) == (decision == "keep")


def test_only_guarded_slices_count_and_empty_ones_are_passed_over():
    champion, challenger = np.ones(300, dtype=bool), np.ones(300, dtype=bool)
    champion[100:160] = False
    challenger[:20] = False
    slices = {"night": np.arange(300) < 100, "old": np.zeros(300, dtype=bool)}
    verdict = compare_versions(champion, challenger, slices)
    assert verdict.decision == "promote"
    assert [part.name for part in verdict.slices] == ["night"]


def test_nothing_below_the_floor_is_promoted():
    pair = make_pair(300, wins=60, losses=0, shared_errors=100)
    assert compare_versions(*pair).decision == "promote"
    verdict = compare_versions(*pair, config=GateConfig(floor=0.7))
    assert verdict.decision == "keep"
    assert "floor" in verdict.reason


def test_false_promotions_stay_below_one_in_twenty_under_no_difference():
    rng, config, promoted = np.random.default_rng(7), GateConfig(resamples=1000), {}
    for differing in (0.01, 0.03, 0.1):
        count = 0
        for _ in range(500):
            draw = rng.random(300)
            champion, challenger = draw > differing, (draw > 2 * differing) | (draw < differing)
            count += compare_versions(champion, challenger, config=config).decision == "promote"
        promoted[differing] = count / 500
    assert max(promoted.values()) <= 0.05
    assert promoted[0.1] > 0  # the simulation can show a false promotion


def test_a_verdict_is_plain_json():
    champion, challenger = make_pair(50, 10, 1)
    verdict = compare_versions(champion, challenger, {"old": np.arange(50) < 20})
    again = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    assert again["decision"] == verdict.decision
    assert again["slices"][0]["n"] == 20
    assert compare_versions(champion, challenger, {"old": np.arange(50) < 20}) == verdict


def test_arrays_that_do_not_fit_are_refused_together():
    with pytest.raises(ValueError, match=r"\(3,\) and \(4,\).*slice 'old'"):
        compare_versions(np.ones(3, dtype=bool), np.ones(4, dtype=bool), {"old": np.ones(2, dtype=bool)})
    with pytest.raises(ValueError, match="no test images"):
        compare_versions(np.array([], dtype=bool), np.array([], dtype=bool))


@pytest.mark.parametrize(
    ("hits", "labels", "decision"),
    [
        (95, [0] * 50 + [1] * 50, "promote"),
        (55, [0] * 50 + [1] * 50, "undecided"),
        (30, [0] * 50 + [1] * 50, "keep"),
        (95, [0] * 95 + [1] * 5, "undecided"),
        (100, [0] * 100, "keep"),
    ],
)
def test_a_first_model_must_beat_the_largest_class(hits, labels, decision):
    verdict = judge_first(np.arange(100) < hits, np.array(labels))
    assert verdict.decision == decision
    assert verdict.threshold == np.bincount(labels).max() / 100
    assert verdict.champion_accuracy is None
    assert (verdict.needed is not None) == (decision == "undecided")


def test_a_first_model_must_reach_the_floor():
    assert judge_first(np.arange(100) < 80, np.arange(100) % 5, GateConfig(floor=0.9)).decision == "keep"


def test_a_guessing_first_model_is_rarely_promoted():
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 4
    promoted = [judge_first(rng.integers(0, 4, 200) == labels, labels).decision == "promote" for _ in range(500)]
    assert np.mean(promoted) <= 0.05
