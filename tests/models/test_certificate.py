"""The certificate says help, harm or neither as planted, its interval covers, its curve finds what was put in."""

import json

import numpy as np
import pytest

from regraft.models.certificate.baselines import Material, Outcome
from regraft.models.certificate.certify import certify, is_futile, is_settled
from regraft.models.certificate.config import CertifyConfig
from regraft.models.certificate.findings import write_certificate
from regraft.models.certificate.learning_curve import CurveFit, find_crossing, fit_curve, value_labels
from regraft.models.certificate.paired_difference import measure_difference
from regraft.models.certificate.pixel_knn import answer_by_neighbours, describe_pixels
from regraft.models.certificate.verdict import format_curve, read_certificate, save_certificate
from regraft.models.export.model_card import list_findings
from regraft.models.heads.data import LabelledImages
from regraft.models.statistics.draws import choose_rows, list_sizes, mark_held, order_rows

LABELS = np.arange(120) % 4
FACTS = {
    "backbone": "x", "classes": 4, "n": 40, "images": 120, "draws": 3, "size_px": 32, "threshold": 0.01,
}  # fmt: skip


def answer(share: float, spread: float = 0.0, draws: int = 3, seed: int = 0) -> np.ndarray:
    """Return answers ``(J, I)`` of which about ``share`` are right; draws differ by ``spread``."""
    rng = np.random.default_rng(seed)
    shares = share + spread * rng.normal(size=(draws, 1))
    return rng.random((draws, len(LABELS))) < shares


def judge(transfer: np.ndarray, scratch: np.ndarray, neighbours: np.ndarray):
    return write_certificate(outcomes_of(transfer, scratch, neighbours), LABELS, CertifyConfig(), FACTS)


def outcomes_of(transfer: np.ndarray, scratch: np.ndarray, neighbours: np.ndarray):
    conditions = (("transfer", transfer), ("scratch", scratch), ("neighbours", neighbours))
    return {(condition, 40): [Outcome(row, "probe") for row in right] for condition, right in conditions}


MATERIAL = Material(np.zeros((120, 1, 1, 3), np.uint8), LABELS, np.arange(0), np.arange(120), 4)


def test_a_look_after_two_draws_hardly_adds_to_false_help():
    rng, false = np.random.default_rng(0), {"early": 0, "in all": 0}
    for _ in range(300):  # weights of no use: transfer and scratch answer alike, each draw has a luck of its own
        hard = rng.normal(0, 0.2, len(LABELS))
        right = [
            rng.random((3, len(LABELS))) < np.clip(0.6 + hard + 0.03 * rng.normal(size=(3, 1)), 0, 1) for _ in range(2)
        ]
        neighbours = answer(0.2, seed=int(rng.integers(1e6)))
        first = outcomes_of(right[0][:2], right[1][:2], neighbours[:2])
        early = is_settled(first, MATERIAL, 40, CertifyConfig())
        found = judge(right[0], right[1][:2] if early else right[1], neighbours)
        false["early"] += early
        false["in all"] += found.decision == "helps"
    assert false["early"] <= 6  # two-sided at 99 %
    assert false["in all"] <= 15


def test_a_clear_case_is_settled_after_two_draws_and_an_open_one_is_not():
    clear = outcomes_of(answer(0.9, draws=2), answer(0.5, draws=2, seed=1), answer(0.4, draws=2, seed=2))
    assert is_settled(clear, MATERIAL, 40, CertifyConfig())
    near = outcomes_of(answer(0.7, draws=2), answer(0.66, draws=2, seed=1), answer(0.4, draws=2, seed=2))
    assert not is_settled(near, MATERIAL, 40, CertifyConfig())
    harm = outcomes_of(answer(0.5, draws=2), answer(0.9, draws=2, seed=1), answer(0.4, draws=2, seed=2))
    assert not is_settled(harm, MATERIAL, 40, CertifyConfig())
    outcomes = outcomes_of(answer(0.9), answer(0.5, draws=2, seed=1), answer(0.4, seed=2))
    outcomes |= {("transfer", size): outcomes["transfer", 40] for size in (10, 20)}
    told = write_certificate(outcomes, LABELS, CertifyConfig(), FACTS)
    assert (told.decision, told.draws) == ("helps", 2)
    assert [(row.condition, row.n) for row in told.conditions] == [
        ("transfer", 10), ("transfer", 20), ("transfer", 40), ("scratch", 40), ("neighbours", 40),
    ]  # fmt: skip
    assert any("After 2 draws the verdict was certain at 99%" in note for note in told.notes)
    assert "cannot be told" in told.crossing["words"] and set(told.fits) == {"transfer"}
    assert format_curve(told).splitlines()[1].split(",")[4] == ""  # nothing was measured from scratch at 10 labels


def test_draws_that_no_further_one_could_settle_are_the_last():
    def found(transfer, scratch, neighbours=0.4, spread=0.0):
        shares = ((transfer, 0), (scratch, 1), (neighbours, 2))
        return outcomes_of(*(answer(share, spread, draws=2, seed=seed) for share, seed in shares))

    assert is_futile(found(0.7, 0.7), MATERIAL, 40, CertifyConfig())
    assert is_futile(found(0.7, 0.69), MATERIAL, 40, CertifyConfig(draws=5))
    for open_or_told in (found(0.76, 0.62), found(0.9, 0.5), found(0.5, 0.9), found(0.62, 0.75)):
        assert not is_futile(open_or_told, MATERIAL, 40, CertifyConfig())
    outcomes = outcomes_of(answer(0.7), answer(0.7, draws=2, seed=1), answer(0.4, seed=2))
    outcomes |= {("transfer", size): outcomes["transfer", 40] for size in (10, 20)}
    told = write_certificate(outcomes, LABELS, CertifyConfig(), FACTS)
    assert (told.decision, told.draws) == ("no evidence", 2)
    assert any("After 2 draws no further draw would have settled" in note for note in told.notes)


def test_stopping_where_no_draw_could_settle_costs_hardly_any_help():
    rng, helps, spared = np.random.default_rng(0), {"all draws": 0, "stopped": 0}, 0
    for _ in range(200):
        hard, neighbours = rng.normal(0, 0.25, len(LABELS)), answer(0.2, seed=int(rng.integers(1e6)))
        chances = (np.clip(level + hard + 0.03 * rng.normal(size=(3, 1)), 0, 1) for level in (0.75, 0.6))
        right, scratch = (rng.random((3, len(LABELS))) < chance for chance in chances)
        first = outcomes_of(right[:2], scratch[:2], neighbours[:2])
        early = is_settled(first, MATERIAL, 40, CertifyConfig())
        futile = is_futile(first, MATERIAL, 40, CertifyConfig())
        assert not (early and futile)
        spared += futile
        helps["all draws"] += judge(right, scratch[:2] if early else scratch, neighbours).decision == "helps"
        helps["stopped"] += judge(right, scratch[:2] if early or futile else scratch, neighbours).decision == "helps"
    assert helps["all draws"] > 80
    assert helps["all draws"] - 8 <= helps["stopped"] <= helps["all draws"]
    assert spared > 40


def test_planted_help_and_planted_harm_are_named():
    helped = judge(answer(0.9), answer(0.6, seed=1), answer(0.5, seed=2))
    assert (helped.decision, helped.gain.low > 0.01) == ("helps", True)
    assert "helps" in helped.reason and f"{helped.gain.value:+.3f}" in helped.reason
    hurt = judge(answer(0.6), answer(0.9, seed=1), answer(0.5, seed=2))
    assert (hurt.decision, hurt.gain.high < -0.01) == ("hurts", True)


def test_no_difference_is_no_evidence_and_says_how_much_more_would_tell():
    found = judge(answer(0.7), answer(0.7, seed=1), answer(0.3, seed=2))
    assert found.decision == "no evidence"
    assert found.more_images > 0
    assert f"{found.more_images} more test images" in found.reason


def test_what_neighbours_do_as_well_is_not_called_help():
    found = judge(answer(0.9), answer(0.5, seed=1), answer(0.91, seed=2))
    assert (found.decision, found.floor.value < 0 < found.floor.high) == ("no evidence", True)
    assert "neighbours are as good" in found.reason
    beaten = judge(answer(0.6), answer(0.3, seed=1), answer(0.95, seed=2))
    assert (beaten.decision, "neighbours are better" in beaten.reason) == ("no evidence", True)


def test_three_draws_that_disagree_prove_nothing():
    right = np.stack([answer(share, draws=1, seed=3)[0] for share in (0.95, 0.6, 0.6)])
    scratch = answer(0.6, seed=4)
    assert judge(right, scratch, answer(0.2, seed=2)).decision == "no evidence"
    pooled = (right.mean(axis=0) - scratch.mean(axis=0)).std() / np.sqrt(len(LABELS))
    assert (right.mean() - scratch.mean()) / pooled > 3  # images alone would have sworn to it


@pytest.mark.parametrize(("images", "spread"), [(120, 0.03), (400, 0.12), (400, 0.0)])
def test_the_interval_of_three_draws_covers(images, spread):
    rng, labels = np.random.default_rng(0), np.arange(images) % 4
    held = narrow = 0
    for _ in range(300):
        hard = rng.normal(0, 0.2, images)
        answers = [
            rng.random((3, images)) < np.clip(0.6 + gain + hard + spread * rng.normal(size=(3, 1)), 0, 1)
            for gain in (0.05, 0.0)
        ]
        found = measure_difference(*answers, labels)
        held += found.low <= 0.05 <= found.high
        d = answers[0].mean(axis=0) - answers[1].mean(axis=0)
        narrow += abs(d.mean() - 0.05) < 1.96 * d.std() / np.sqrt(images)
    assert held / 300 > 0.93
    assert spread < 0.1 or narrow / 300 < 0.8  # the check can fail: images alone do not cover where draws differ


def test_differences_refuse_what_has_no_spread():
    with pytest.raises(ValueError, match="two draws"):
        measure_difference(answer(0.5)[:1], answer(0.5)[:1], LABELS)


def test_the_curve_finds_planted_parameters_and_the_crossing():
    sizes = np.array([25, 50, 100, 200])

    def plant(floor, scale, exponent):
        return np.tile(floor + scale * (sizes / 200) ** -exponent, (3, 1)) + np.array([[-0.004], [0], [0.004]])

    scratch, transfer = fit_curve(sizes, plant(0.02, 0.30, 0.7), 400), fit_curve(sizes, plant(0.10, 0.06, 0.5), 400)
    assert (scratch.floor, scratch.scale, scratch.exponent) == pytest.approx((0.02, 0.30, 0.7), abs=1e-3)
    crossing = find_crossing(transfer, scratch, ahead=True, steps=500)
    n = crossing.n
    assert (crossing.kind, crossing.low <= n <= crossing.high) == ("at", True)
    assert 0.02 + 0.30 * (n / 200) ** -0.7 == pytest.approx(0.10 + 0.06 * (n / 200) ** -0.5, abs=2e-3)
    worth = value_labels(transfer, 100, 0.95)
    assert worth.gain == pytest.approx(0.06 * (1 - 1.5**-0.5), abs=2e-3)
    assert worth.low <= worth.gain <= worth.high


def test_a_curve_that_does_not_fall_supports_nothing():
    flat = fit_curve(np.array([25, 50, 100]), np.array([[0.5, 0.52, 0.5], [0.5, 0.49, 0.5], [0.51, 0.5, 0.5]]), 100)
    good = CurveFit(0.1, 0.1, 1.0, 100.0, True, ((0.1, 0.1),) * 3)
    assert find_crossing(good, flat, ahead=True, steps=500).kind == "untold"
    assert find_crossing(good, good, ahead=True, steps=8).kind == "untold"
    assert find_crossing(good, good, ahead=False, steps=500).kind == "reached"
    assert (
        find_crossing(good, CurveFit(0.3, 0.1, 1.0, 100.0, True, ((0.3, 0.1),) * 3), ahead=True, steps=500).kind
        == "not within"
    )
    assert value_labels(flat, 100, 0.95).gain is None
    assert value_labels(good, 500, 0.95).words.startswith("cannot be told")


def test_every_beginning_of_a_draw_has_every_class_and_some_to_decide_with():
    labels = np.repeat([0, 1, 2], [100, 20, 5])
    order = order_rows(labels, np.arange(125), [0])
    assert sorted(order) == list(range(125))
    for size in (6, 25, 60, 125):
        mine = labels[order[:size]]
        held = mark_held(mine)
        assert np.bincount(mine, minlength=3).min() >= 2
        assert set(mine[held]) == set(mine[~held]) == {0, 1, 2}
    assert np.bincount(labels[order[:60]]).tolist() == pytest.approx([48, 10, 2], abs=2)
    assert not np.array_equal(order, order_rows(labels, np.arange(125), [1]))


def test_the_draws_leave_images_out_and_never_learn_from_the_test_part():
    labels, parts = np.arange(100) % 4, np.repeat(["train", "validation", "test"], [60, 20, 20])
    rows = choose_rows(labels, parts, max_images=20, max_test=12, seed=0)
    assert (np.sum(parts[rows] == "test"), np.sum(parts[rows] != "test")) == (12, 40)
    assert list_sizes(40, 4, (0.25, 0.5, 1.0)) == [10, 20, 40]
    assert list_sizes(24, 4, (0.25, 0.5, 1.0)) == [12, 24]  # six images would not hold two of each class


def test_neighbours_tell_stripes_apart_but_not_noise(stripes):
    pixels, labels = stripes(20, noise=10.0)
    features = describe_pixels(pixels)
    said = answer_by_neighbours(features[:30], labels[:30], features[30:], 3)
    assert np.mean(said == labels[30:]) > 0.9
    shuffled = np.random.default_rng(0).permutation(labels)
    assert np.mean(answer_by_neighbours(features[:30], shuffled[:30], features[30:], 3) == shuffled[30:]) < 0.7


@pytest.fixture(scope="module")
def certified(make_backbone, stripes, tmp_path_factory):
    """A real certificate of a tiny network with random weights, as a function."""
    backbone = make_backbone(tmp_path_factory.mktemp("backbone"))
    pixels, labels = stripes(20, noise=60.0)
    images = LabelledImages(pixels, labels, np.where(np.arange(60) % 5 == 4, "test", "train"), ["a", "b", "c"])
    config = CertifyConfig(draws=2, max_images=24, trial_s=0.08, max_epochs=1, threads=1)

    def run(**changes):
        reports = []
        arguments = {"adapt_images": 24, "progress": lambda done, whole: reports.append((done, whole))} | changes
        return certify(backbone, images, config, **arguments), reports

    return run


def test_a_real_certificate_repeats_to_the_byte_and_explains_itself(certified, tmp_path):
    first, reports = certified()
    again, _ = certified()
    for certificate, name in ((first, "a"), (again, "b")):
        save_certificate(certificate, tmp_path / name)
    for file in ("certificate.json", "curve.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert read_certificate(tmp_path / "a").model_dump(mode="json") == first.model_dump(mode="json")
    # Random weights are no better than random weights, and no further draw would show otherwise.
    assert reports == [(done, 12) for done in (*range(1, 9), 12)]
    measured = {(condition, n) for condition in ("transfer", "neighbours") for n in (6, 12, 24)}
    assert {(condition.condition, condition.n) for condition in first.conditions} == {*measured, ("scratch", 24)}
    budgets = {condition.condition: condition.budget_s for condition in first.conditions if condition.n == 24}
    assert budgets["scratch"] == pytest.approx(3 * budgets["transfer"])
    assert [row.split(",")[0] for row in format_curve(first).splitlines()] == ["n", "6", "12", "24"]
    assert first.decision != "helps"  # random weights
    assert json.dumps(first.model_dump(mode="json"), allow_nan=False)
    card = "\n".join(list_findings(first.model_dump(mode="json")))
    assert first.decision in card and "nominal seconds" in card


def test_too_few_images_are_no_evidence_and_not_a_fault(make_backbone, stripes, tmp_path):
    pixels, labels = stripes(3)
    parts = np.where(np.arange(9) < 6, "train", "test")
    backbone = make_backbone(tmp_path)
    found = certify(backbone, LabelledImages(pixels, labels, parts, ["a", "b", "c"]), CertifyConfig())
    assert (found.decision, "'a' has 2 known images" in found.reason) == ("no evidence", True)
    assert format_curve(found).splitlines()[1:] == []
