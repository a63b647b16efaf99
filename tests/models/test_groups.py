"""Images that show the same thing count together: variances, resamples and intervals are those of groups."""

import json
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from benchmarks.grouped_coverage import GroupedCell, measure_grouped
from regraft.models.certificate.baselines import Outcome
from regraft.models.certificate.config import CertifyConfig
from regraft.models.certificate.findings import write_certificate
from regraft.models.certificate.paired_difference import measure_difference
from regraft.models.compute.budget import TrainingPlan
from regraft.models.evaluation.evaluate import EvaluateConfig, evaluate_predictions
from regraft.models.features.linear_probe import Folds, cross_validate, make_folds
from regraft.models.selection.decide import resample_mean
from regraft.models.selection.ranking import bootstrap_best
from regraft.models.selection.transferability import decompose, ridge_hits, score_all
from regraft.models.statistics.design import Design, measure_design
from regraft.models.statistics.draws import choose_rows, order_rows
from regraft.models.statistics.intervals import draw_weights, join_strata, number_groups, spread_variance
from regraft.models.statistics.merits import rate_hits
from regraft.models.statistics.metrics import soften_logits, trace_calibration_error, trace_shares
from regraft.models.statistics.scorecard import gather_predictions, prepare_answers
from regraft.models.training.model_choice import choose_weights, rate_logits

QUICK = EvaluateConfig(bootstrap=200)
FROZEN = json.loads(Path(__file__).with_name("frozen_figures.json").read_text())
"""Figures printed before images could come in groups."""


def predict(classes: int, n: int, seed: int = 0):
    """Return probabilities, labels and logits as they were when the frozen figures were made."""
    rng = np.random.default_rng(seed)
    labels, logits = rng.integers(0, classes, n), rng.normal(0, 1, (n, classes))
    logits[np.arange(n), labels] += 1.5
    return soften_logits(logits, 1.3), labels, logits


def predict_coils(coils: int, each: int = 30, alike: float = 2.0):
    """Return probabilities, labels and groups: coils of two classes, those of one coil hard or easy together."""
    rng, groups = np.random.default_rng(4), np.repeat(np.arange(coils), each)
    labels = groups % 2
    logits = rng.normal(0, 0.5, (len(groups), 2))
    logits[np.arange(len(groups)), labels] += 1.5 + alike * rng.normal(size=coils)[groups]
    return soften_logits(logits), labels, groups


def test_an_image_without_a_group_is_one_by_itself():
    assert number_groups(["coil", None, "reel", "coil", float("nan"), ""]).tolist() == [0, 1, 2, 0, 3, 4]


def test_strata_that_share_a_group_are_joined():
    labels = np.repeat([0, 1, 2], 4)
    assert join_strata(labels, np.repeat(np.arange(6), 2)).tolist() == labels.tolist()
    mixed = join_strata(labels, np.array([0, 0, 1, 2, 2, 3, 3, 3, 4, 4, 5, 5]))
    assert mixed.tolist() == [0] * 8 + [1] * 4


def test_the_variance_of_groups_of_one_image_each_is_that_of_images_to_the_last_bit():
    rng = np.random.default_rng(0)
    influence, labels = rng.normal(size=90), rng.integers(0, 3, 90)
    plain = spread_variance(influence, labels)
    assert plain == spread_variance(influence, labels, rng.permutation(90) * 7)
    assert plain == spread_variance(influence, labels, number_groups([None] * 90))
    assert measure_design(influence, labels, rng.permutation(90)) == Design()


@pytest.mark.parametrize("classes", [2, 4])
def test_without_groups_every_figure_is_what_it_was_and_groups_of_one_change_no_bit(classes):
    p, labels, logits = predict(classes, {2: 50, 4: 120}[classes])
    names = [f"class {k}" for k in range(classes)]
    plain = evaluate_predictions(p, labels, names, QUICK, logits=logits)
    printed = plain["test"] | {f"class 1 {key}": value for key, value in plain["classes"][1].items() if key != "label"}
    assert printed == pytest.approx(FROZEN[f"{classes} classes"], abs=1e-9)
    alone = np.random.default_rng(0).permutation(len(labels))
    assert evaluate_predictions(p, labels, names, QUICK, logits=logits, groups=alone) == plain


def test_without_groups_a_difference_is_what_it_was():
    rng, labels = np.random.default_rng(5), np.arange(60) % 3
    hard = rng.normal(0, 0.2, 60)
    first, second = (rng.random((3, 60)) < 0.6 + gain + hard for gain in (0.1, 0))
    found = measure_difference(first, second, labels)
    assert found.groups is None
    assert found.model_dump(exclude={"groups"}) == pytest.approx(FROZEN["difference"], abs=1e-9)
    assert measure_difference(first, second, labels, groups=rng.permutation(60)) == found


@pytest.mark.parametrize("mixed", [False, True])
def test_the_variance_with_groups_is_that_of_other_groups(mixed):
    """Nine coils of ten images that share half of their variance; images alone would say a sixth of the truth."""
    rng, groups = np.random.default_rng(0), np.repeat(np.arange(9), 10)
    labels = np.arange(90) % 3 if mixed else np.repeat([0, 1, 2], 30)
    means, grouped, plain = [], [], []
    for _ in range(600):
        values = rng.normal(size=9)[groups] + rng.normal(size=90)
        influence = (values - values.mean()) / 90
        means.append(values.mean())
        grouped.append(spread_variance(influence, labels, groups))
        plain.append(spread_variance(influence, labels))
    assert np.mean(grouped) == pytest.approx(np.var(means), rel=0.15)
    assert np.mean(plain) < 0.25 * np.var(means)


def test_one_group_alone_in_its_class_may_be_off_as_a_whole():
    labels, groups = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 2, 3])
    assert spread_variance(np.array([0.1, 0.1, 0.1, 0, 0, 0]), labels, groups) == pytest.approx(0.09)
    centred = np.array([0.1, -0.1, 0.0, 0, 0, 0])
    assert spread_variance(centred, labels, groups) == pytest.approx(3 * 0.02)


def test_resamples_draw_whole_groups_and_keep_the_size_of_every_class():
    labels, groups = np.repeat([0, 1], 12), np.repeat(np.arange(6), 4)
    weights = np.concatenate(list(draw_weights(labels, 200, 0, groups)))
    assert (weights.reshape(200, 6, 4) == weights.reshape(200, 6, 4)[:, :, :1]).all()
    assert weights[:, :12].sum(axis=1) == pytest.approx(12)
    mixed = np.concatenate(list(draw_weights(np.arange(24) % 2, 200, 0, groups)))
    assert mixed[:, ::2].sum(axis=1) == pytest.approx(12)
    unequal = np.concatenate(list(draw_weights(labels, 200, 0, np.array([0] * 9 + [1] * 3 + [2] * 12))))
    assert {round(float(value), 3) for value in unequal[:, 0]} == {0.0, 1.0, round(12 / 9, 3)}
    assert (unequal[:, 12:] == 1).all()


def test_the_influence_of_an_image_is_what_a_little_more_of_its_weight_adds():
    p, labels, _ = predict(3, 40)
    held = gather_predictions(p, labels, ["a", "b", "c"], 5, None)
    score, step = prepare_answers(held), 1e-6
    moved, stays = score(1 + step * np.eye(40)), score(np.ones((1, 40)))
    traced = trace_shares(labels, held.predicted, 3) | {"ece": trace_calibration_error(held.binned)}
    for name in ("balanced_accuracy", "macro_f1", "ece"):
        assert traced[name].score == pytest.approx(float(stays[name][0]), abs=1e-12)
        assert (moved[name] - stays[name]) / step == pytest.approx(traced[name].influence, abs=1e-6), name


def test_the_design_tells_what_groups_have_in_common():
    groups, labels = np.repeat(np.arange(40), 10), np.repeat([0, 1], 200)
    rng = np.random.default_rng(0)
    nothing, everything = rng.normal(size=400), rng.normal(size=40)[groups]
    few = (np.arange(400) == 3) - 1 / 400
    assert measure_design(nothing - nothing.mean(), labels, groups).effect < 1.6
    assert measure_design(everything - everything.mean(), labels, groups).effect == pytest.approx(10, rel=0.1)
    assert measure_design(np.zeros(400), labels, groups).effect == 10  # no mistake says nothing of what they share
    assert 2 < measure_design(few, labels, groups).effect < 8  # and one mistake says little
    assert measure_design(nothing, labels, groups).degrees == pytest.approx(38)
    assert measure_design(nothing, labels, np.zeros(400)).shrink(400) < 0.1  # of one coil nothing is known


def test_n_is_said_in_images_and_in_groups():
    p, labels, groups = predict_coils(12)
    found = evaluate_predictions(p, labels, ["a", "b"], QUICK, groups=groups)
    plain = evaluate_predictions(p, labels, ["a", "b"], QUICK)
    assert (found["test"]["n"], found["test"]["groups"]) == (360, 12)
    assert [row["groups"] for row in found["classes"]] == [6, 6]
    assert "12 groups of up to 30" in found["notes"][0]
    assert "groups" not in plain["test"] and not plain["notes"]
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "pr_auc", "log_loss", "brier"):
        wide, narrow = (row["test"][f"{name}_high"] - row["test"][f"{name}_low"] for row in (found, plain))
        assert found["test"][name] == plain["test"][name]
        assert wide > 2 * narrow, name
    one = evaluate_predictions(p, labels, ["a", "b"], QUICK, groups=np.where(labels == 0, 0, groups + 1))
    assert any("of a are of one group" in note for note in one["notes"])
    assert one["classes"][0]["recall_high"] - one["classes"][0]["recall_low"] > 0.9
    with pytest.raises(ValueError, match="groups have shape"):
        evaluate_predictions(p, labels, ["a", "b"], QUICK, groups=groups[:5])


def test_intervals_of_grouped_images_cover_and_those_of_images_would_not():
    with threadpool_limits(1):  # threads that wait for each other take ten times as long on a busy machine
        found = measure_grouped(GroupedCell(groups=12, alike=0.6, accuracy=0.8, mixed=False), repeats=40, resamples=100)
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):
        assert found[name].share >= 0.9, name
        assert found[f"by image {name}"].share < 0.65, name
    assert found["difference"].share >= 0.9
    assert found["by image difference"].share < 0.75


def test_labels_are_drawn_coil_by_coil_with_the_classes_in_proportion():
    groups = np.repeat(np.arange(20), 10)
    labels = groups % 2
    order = order_rows(labels, np.arange(200), [0], groups)
    assert sorted(order) == list(range(200))
    assert np.bincount(labels[order[:60]]).tolist() == [30, 30]
    assert len(np.unique(groups[order[:60]])) == 6
    assert len(np.unique(groups[order_rows(labels, np.arange(200), [0])[:60]])) > 15
    parts = np.where(groups < 14, "train", "test")
    rows = choose_rows(labels, parts, max_images=20, max_test=12, seed=0, groups=groups)
    assert len(np.unique(groups[rows][parts[rows] == "train"])) == 4
    assert len(np.unique(groups[rows][parts[rows] == "test"])) > 4


def test_a_certificate_of_few_coils_is_slower_to_swear_and_says_how_many_there_were():
    rng, groups = np.random.default_rng(0), np.repeat(np.arange(12), 10)
    labels = groups % 4
    better = (groups % 3 > 0) | (rng.random((3, 120)) < 0.2)
    outcomes = {
        (condition, 40): [Outcome(row, "probe") for row in right]
        for condition, right in (
            ("transfer", better),
            ("scratch", rng.random((3, 120)) < 0.5),
            ("neighbours", rng.random((3, 120)) < 0.2),
        )
    }
    facts = {
        "backbone": "x", "classes": 4, "n": 40, "images": 120, "draws": 3, "size_px": 32, "threshold": 0.01,
    }  # fmt: skip
    images = write_certificate(outcomes, labels, CertifyConfig(), facts)
    coils = write_certificate(outcomes, labels, CertifyConfig(), facts | {"groups": 12}, groups)
    assert (images.decision, coils.decision) == ("helps", "no evidence")
    assert "on 120 test images in 12 groups" in coils.reason and "on 120 test images against" in images.reason
    assert coils.gain.value == images.gain.value
    assert coils.gain.groups == 12 and f"{coils.more_images} more test images in " in coils.reason
    assert any("group by group" in note for note in coils.notes)


def test_no_fold_parts_a_group_and_every_fold_is_taught_all_classes():
    groups = np.repeat(np.arange(10), 6)
    labels = groups % 2
    plain, dealt = make_folds(labels, 5, 0), make_folds(labels, 5, 0, groups)
    assert not any(set(groups[train]) & set(groups[held]) for train, held in dealt)
    assert sorted(np.concatenate([held for _, held in dealt])) == list(range(60))
    assert all(set(labels[train]) == {0, 1} for train, _ in dealt) and len(dealt) == 5
    assert all(set(groups[train]) & set(groups[held]) for train, held in plain)
    lone = make_folds(labels, 5, 0, np.where(labels == 0, 0, groups))  # class 0 is one group: nothing else can be done
    for (train, held), (its_train, its_held) in zip(lone, plain, strict=True):
        assert np.array_equal(train, its_train) and np.array_equal(held, its_held)


def test_a_probe_on_groups_is_not_praised_for_knowing_their_other_images():
    rng, groups = np.random.default_rng(0), np.repeat(np.arange(12), 10)
    labels = groups % 2
    looks = rng.normal(size=(12, 20))[groups] + 0.1 * rng.normal(size=(120, 20))  # of the coil, nothing of the class
    plain, honest = (cross_validate(looks, labels, classes=2, folds=Folds(groups=told)) for told in (None, groups))
    assert np.mean(plain.logits.argmax(axis=1) == labels) > 0.95
    assert np.mean(honest.logits.argmax(axis=1) == labels) < 0.75


def test_fine_tuning_that_gains_on_one_group_is_not_ahead():
    labels, groups = np.arange(40) % 2, np.repeat(np.arange(4), 10)
    tuned, wrong = np.eye(2)[labels], np.eye(2)[1 - labels]
    probe = np.where((groups == 1)[:, None], wrong, tuned)
    plan = TrainingPlan(batch_size=4, steps=1, steps_per_epoch=1, frozen_groups=0, groups=2, views=0, reason="")
    merits = {"probe": rate_hits(probe, labels), "finetuned": rate_hits(tuned, labels)}
    assert choose_weights(merits, plan).kept == "finetuned"
    found = choose_weights(merits, plan, groups)
    assert (found.kept, found.gained, found.lost) == ("probe", 10, 0)
    assert "of 40 validation images in 4 groups fine-tuning gains 10" in found.reason and found.p_value > 0.3
    assert choose_weights(merits, plan, np.arange(40)) == choose_weights(merits, plan)
    wide, narrow = rate_logits(probe, labels, groups), rate_logits(probe, labels)
    assert wide.accuracy_low < narrow.accuracy_low - 0.1 and rate_logits(probe, labels, np.arange(40)) == narrow


def test_scores_without_training_look_for_the_class_in_other_groups():
    rng, groups = np.random.default_rng(0), np.repeat(np.arange(12), 10)
    labels = groups % 2
    looks = rng.normal(size=(12, 20))[groups] + 0.1 * rng.normal(size=(120, 20))
    plain, honest = score_all(looks, labels), score_all(looks, labels, groups)
    assert plain.knn_hits.mean() > 0.95 and plain.ridge.hits.mean() > 0.95
    assert honest.knn_hits.mean() < 0.75 and honest.ridge.hits.mean() < 0.75
    alone = score_all(looks, labels, rng.permutation(120))
    assert np.array_equal(alone.ridge.scores, plain.ridge.scores) and np.array_equal(alone.knn_hits, plain.knn_hits)


def test_ridge_answers_of_a_group_are_those_of_a_fit_without_it():
    rng, groups = np.random.default_rng(0), np.repeat(np.arange(6), 5)
    labels, features = np.arange(30) % 2, rng.normal(size=(30, 8))
    parts = decompose(features)
    found = ridge_hits(parts, labels, penalties=(0.1,), groups=groups)
    values, targets = parts.directions * np.sqrt(parts.powers), np.eye(2)[labels]
    penalty = 0.1 * parts.powers.mean()
    for group in range(6):
        out = groups == group
        with_one = np.column_stack([values, np.ones(30)])
        weights = np.linalg.solve(
            with_one[~out].T @ with_one[~out] + np.diag([*[penalty] * values.shape[1], 0]),
            with_one[~out].T @ targets[~out],
        )
        assert found.scores[out] == pytest.approx(with_one[out] @ weights, abs=1e-9)


def test_who_is_best_is_asked_of_other_groups():
    groups = np.repeat(np.arange(6), 20)
    ahead = {"a": (groups == 0) * 1.0, "b": np.where(np.arange(120) % 20 < 2, 1.0, 0.0)}
    by_image, by_group = bootstrap_best(ahead, 2000), bootstrap_best(ahead, 2000, groups=groups)
    assert by_image["a"] > 0.85 and by_group["a"] < 0.8
    assert bootstrap_best(ahead, 500, groups=np.arange(120)) == bootstrap_best(ahead, 500)
    low, high = resample_mean(ahead["a"] - ahead["b"], 0, groups)
    assert low < 0 < high and resample_mean(ahead["a"] - ahead["b"], 0)[0] > low
