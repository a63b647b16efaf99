"""The gate promotes what is better, keeps what is worse, and asks for images when it cannot tell."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest

from regraft.models.promotion.first_gate import judge_first
from regraft.models.promotion.gate import GateConfig, Sample, compare_versions, spend_error
from regraft.models.statistics.paired import compare_paired

ONCE = GateConfig(max_looks=1)


def make_sample(n, wins, losses, shared_errors=0, classes=6, groups=None):
    """Return a sample with that many differing answers, spread over the classes."""
    champion, challenger = np.ones(n, dtype=bool), np.ones(n, dtype=bool)
    champion[:wins] = False
    challenger[wins : wins + losses] = False
    champion[n - shared_errors :] = challenger[n - shared_errors :] = False
    return Sample(champion, challenger, np.arange(n) % classes, groups)


def draw_sample(rng, n, differing, gain=0.0, classes=6):
    """Return a sample of two versions that differ on a share of images, the challenger better by ``gain``."""
    u = rng.random(n)
    wins, losses = (differing + gain) / 2, (differing - gain) / 2
    return Sample(u >= wins, (u < wins) | (u >= wins + losses), np.arange(n) % classes)


def test_a_clear_gain_is_promoted_with_its_numbers():
    verdict = compare_versions(make_sample(300, wins=30, losses=5))
    assert verdict.decision == "promote"
    assert verdict.statistic == pytest.approx(25 / 300)
    assert 0 < verdict.low < verdict.statistic < verdict.high
    assert (verdict.n, verdict.groups, verdict.wins, verdict.losses, verdict.needed) == (300, 300, 30, 5, None)
    assert verdict.p_value < 0.001


def test_a_clear_loss_is_kept_out():
    verdict = compare_versions(make_sample(300, wins=5, losses=30))
    assert verdict.decision == "keep"
    assert verdict.high < 0
    assert "worse" in verdict.reason


def test_interval_and_p_value_are_of_one_test():
    rng = np.random.default_rng(3)
    for _ in range(300):
        n = int(rng.integers(8, 200))
        sample = draw_sample(rng, n, rng.uniform(0.05, 0.6), rng.uniform(-0.05, 0.05))
        found = compare_paired(sample.champion, sample.challenger, sample.strata, None, 0.95)
        assert (found.low > 0 or found.high < 0) == (found.p_value < 0.05)


def test_a_small_difference_asks_for_about_as_many_images_as_it_takes():
    verdict = compare_versions(make_sample(200, wins=9, losses=5))
    assert verdict.decision == "undecided"
    assert verdict.low < 0 < verdict.high
    assert str(verdict.needed) in verdict.reason
    rng, n = np.random.default_rng(0), 200 + verdict.needed
    settled = [
        compare_versions(draw_sample(rng, n, 14 / 200, 4 / 200), look=2).decision == "promote" for _ in range(200)
    ]
    assert 0.7 <= np.mean(settled) <= 0.92


def test_equal_answers_are_undecided_not_promoted():
    verdict = compare_versions(make_sample(100, 0, 0, shared_errors=4))
    assert verdict.decision == "undecided"
    assert (verdict.statistic, verdict.p_value) == (0, 1)
    assert verdict.low < 0 < verdict.high
    assert verdict.needed > 0


def test_five_wins_without_a_loss_are_not_enough():
    """As McNemar's exact test has it: p 0.0625."""
    assert compare_versions(make_sample(300, wins=5, losses=0), config=ONCE).decision != "promote"


@pytest.mark.parametrize(("n", "differing"), [(24, 0.3), (36, 0.5), (150, 0.1), (300, 0.05)])
def test_equal_versions_are_rarely_promoted(n, differing):
    rng = np.random.default_rng(7)
    found = [
        compare_paired(s.champion, s.challenger, s.strata)
        for s in (draw_sample(rng, n, differing) for _ in range(1000))
    ]
    assert np.mean([one.low > 0 for one in found]) <= 0.035  # 0.025 promised; three standard errors of 1000 draws
    assert np.mean([one.p_value < 0.5 for one in found]) > 0.05  # the simulation can show a difference


def test_images_of_one_group_count_as_the_group():
    """Thirty images of each coil that share its fate: counted as images a lucky coil is proof, counted as coils not."""
    rng = np.random.default_rng(11)
    promoted = {"images": 0, "coils": 0}
    for _ in range(300):
        better = np.repeat(rng.random(10) < 0.5, 30)
        differs = np.repeat(rng.random(10) < 0.4, 30) & (rng.random(300) < 0.8)
        champion, challenger = ~(differs & better), ~(differs & ~better)
        labels, coils = np.arange(300) % 3, [f"coil {number // 30}" for number in range(300)]
        promoted["images"] += compare_paired(champion, challenger, labels).low > 0
        promoted["coils"] += compare_paired(champion, challenger, labels, coils).low > 0
    assert promoted["images"] / 300 > 0.15
    assert promoted["coils"] / 300 <= 0.05


def test_groups_are_said_beside_the_images():
    sample = make_sample(60, 20, 0, groups=[f"p{number // 6}" for number in range(60)])
    verdict = compare_versions(sample)
    assert (verdict.n, verdict.groups) == (60, 10)
    assert "60 images (10 groups)" in verdict.reason


def test_a_rare_class_weighs_as_much_as_a_common_one():
    labels = np.array([0] * 190 + [1] * 10)
    champion, challenger = labels == 0, np.ones(200, dtype=bool)
    challenger[:8] = False  # four of a hundred good parts are called bad, but every defect is found
    verdict = compare_versions(Sample(champion, challenger, labels))
    assert verdict.statistic == pytest.approx((1.0 - 8 / 190) / 2)
    assert verdict.decision == "promote"


def test_the_present_line_decides_and_the_old_one_guards():
    """36 new images among 772: weighed together they decide nothing, asked about the present line they do."""
    old = make_sample(736, wins=7, losses=9)
    present = make_sample(36, wins=17, losses=2)
    joined = Sample(
        np.concatenate([old.champion, present.champion]),
        np.concatenate([old.challenger, present.challenger]),
        np.concatenate([old.strata, present.strata]),
    )
    assert compare_versions(joined).decision == "undecided"
    verdict = compare_versions(joined, present=present, old=old)
    assert verdict.decision == "promote"
    assert [(one.asked, one.finding, one.n) for one in verdict.questions] == [
        ("present line", "yes", 36),
        ("old line", "yes", 736),
    ]


def test_a_proven_loss_on_the_old_line_keeps_a_challenger_out():
    verdict = compare_versions(
        make_sample(400, 0, 0), present=make_sample(60, 30, 0), old=make_sample(300, wins=0, losses=30)
    )
    assert verdict.decision == "keep"
    assert "forgets" in verdict.reason


def test_thirty_old_images_cannot_tell_and_say_so_and_veto_nobody():
    rng = np.random.default_rng(5)
    vetoed = 0
    for _ in range(200):  # truly as good as the champion on the old line
        old = draw_sample(rng, 30, 0.2)
        verdict = compare_versions(old, present=make_sample(60, 40, 0), old=old)
        assert verdict.questions[1].finding != "yes" or verdict.decision == "promote"
        vetoed += verdict.decision != "promote"
    assert vetoed / 200 <= 0.025
    assert "cannot be told with so few" in verdict.reason and verdict.questions[1].needed > 30
    asked = compare_versions(old, present=make_sample(60, 40, 0), old=old, config=GateConfig(needs_proof=True))
    assert asked.decision == "undecided"


def test_every_look_has_its_share_of_the_error_and_the_last_one_ends_it():
    assert [round(1 - spend_error(0.95, look), 6) for look in (1, 2, 3)] == [0.025, 0.0125, 0.00625]
    sample = make_sample(40, wins=8, losses=1)
    first, second = compare_versions(sample, look=1), compare_versions(sample, look=2)
    assert second.low < first.low
    last = compare_versions(make_sample(40, 1, 1), look=5)
    assert last.decision == "keep" and "after 5 looks" in last.reason


def test_judging_again_and_again_promotes_an_equal_challenger_rarely():
    rng = np.random.default_rng(2)
    promoted = 0
    for _ in range(400):
        u = rng.random(600)
        for look, n in enumerate((30, 80, 160, 300, 600), start=1):
            sample = Sample(u[:n] >= 0.15, (u[:n] < 0.15) | (u[:n] >= 0.3), np.arange(n) % 6)
            verdict = compare_versions(sample, look=look)
            if verdict.decision != "undecided":
                promoted += verdict.decision == "promote"
                break
    assert promoted / 400 <= 0.05


def test_nothing_below_the_floor_is_promoted():
    sample = make_sample(300, wins=60, losses=0, shared_errors=100)
    assert compare_versions(sample).decision == "promote"
    verdict = compare_versions(sample, config=GateConfig(floor=0.7))
    assert verdict.decision == "keep"
    assert "floor" in verdict.reason


def test_a_verdict_is_plain_json():
    verdict = compare_versions(make_sample(50, 10, 1), old=make_sample(20, 1, 1))
    again = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    assert again["decision"] == verdict.decision
    assert again["questions"][1]["n"] == 20
    assert exact(make_sample(50, 10, 1)) == pytest.approx(0.0117, abs=1e-3)


def exact(sample):
    """Return McNemar's exact p-value, to hold ours against."""
    wins = int(np.sum(sample.challenger & ~sample.champion))
    losses = int(np.sum(sample.champion & ~sample.challenger))
    return binomtest(wins, wins + losses).pvalue


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"shapes"):
        Sample(np.ones(3, dtype=bool), np.ones(4, dtype=bool), np.zeros(3))
    with pytest.raises(ValueError, match="2 groups for 3 images"):
        Sample(np.ones(3, dtype=bool), np.ones(3, dtype=bool), np.zeros(3), ["a", "b"])
    with pytest.raises(ValueError, match="no test images"):
        compare_versions(Sample(np.array([], dtype=bool), np.array([], dtype=bool), np.array([])))


@pytest.mark.parametrize(
    ("wrong", "labels", "decision"),
    [
        (5, [0, 1] * 50, "promote"),
        (45, [0, 1] * 50, "undecided"),
        (70, [0, 1] * 50, "keep"),
        (0, [0] * 100, "keep"),
    ],
)
def test_a_first_model_must_beat_naming_one_class(wrong, labels, decision):
    verdict = judge_first(np.arange(100) >= wrong, np.array(labels))
    assert verdict.decision == decision
    assert verdict.threshold == 1 / len(set(labels))
    assert verdict.champion_accuracy is None
    assert (verdict.needed is not None) == (decision == "undecided")
    assert (verdict.low > verdict.threshold) == (verdict.p_value < 0.05 and verdict.statistic > verdict.threshold)


def test_a_model_that_names_only_the_common_class_is_not_promoted():
    labels = np.array([0] * 95 + [1] * 5)
    assert judge_first(labels == 0, labels).decision != "promote"


def test_a_model_that_finds_rare_defects_is_promoted():
    labels = np.array([0] * 190 + [1] * 10)
    right = np.ones(200, dtype=bool)
    right[[3, 195]] = False
    assert judge_first(right, labels).decision == "promote"


def test_a_first_model_must_reach_the_floor():
    right = np.arange(100) < 80
    assert judge_first(right, np.arange(100) % 5, config=GateConfig(floor=0.9)).decision == "keep"


@pytest.mark.parametrize("grouped", [False, True])
def test_a_guessing_first_model_is_rarely_promoted(grouped):
    rng = np.random.default_rng(0)
    labels, coils = np.repeat(np.arange(20), 10) % 4, [f"c{number // 10}" for number in range(200)]
    promoted = 0
    for _ in range(500):
        guesses = np.repeat(rng.integers(0, 4, 20), 10) if grouped else rng.integers(0, 4, 200)
        promoted += judge_first(guesses == labels, labels, coils if grouped else None).decision == "promote"
    assert promoted / 500 <= 0.05
