"""Scores equal scikit-learn's, and what they cannot say is said."""

import csv
import json

import numpy as np
import pytest
from sklearn import metrics as sk

from regraft.models.evaluation.evaluate import EvaluateConfig, evaluate_predictions, write_evaluation
from regraft.models.statistics.metrics import (
    bin_confidence,
    measure_noise,
    rank_images,
    score_calibration_error,
    score_ranking,
    soften_logits,
    spread_gaps,
    trace_ranking,
)

QUICK = EvaluateConfig(bootstrap=200)


def make_predictions(n=120, classes=4, strength=1.5, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    logits = rng.normal(0, 1, (n, classes))
    logits[np.arange(n), labels] += strength
    return soften_logits(logits, 1.3), labels, logits


def names_of(classes):
    return [f"class {k}" for k in range(classes)]


def test_scores_equal_scikit_learns():
    p, y, logits = make_predictions()
    test = evaluate_predictions(p, y, names_of(4), QUICK, logits=logits)["test"]
    guess = p.argmax(axis=1)
    wanted = {
        "accuracy": sk.accuracy_score(y, guess),
        "balanced_accuracy": sk.balanced_accuracy_score(y, guess),
        "macro_f1": sk.f1_score(y, guess, average="macro"),
        "roc_auc": sk.roc_auc_score(y, p, multi_class="ovr", average="macro"),
        "pr_auc": sk.average_precision_score(np.eye(4)[y], p, average="macro"),
        "log_loss": sk.log_loss(y, p),
        "brier": sk.brier_score_loss(y, p),
    }
    assert {name: test[name] for name in wanted} == pytest.approx(wanted, abs=1e-12)


def test_two_classes_score_the_second_as_positive():
    p, y, _ = make_predictions(classes=2, n=80)
    p = np.round(p, 1)  # ties
    result = evaluate_predictions(p, y, ["good", "bad"], QUICK)
    wanted = {
        "roc_auc": sk.roc_auc_score(y, p[:, 1]),
        "pr_auc": sk.average_precision_score(y, p[:, 1]),
        "prevalence": y.mean(),
        "brier": sk.brier_score_loss(y, p[:, 1]),
    }
    assert {name: result["test"][name] for name in wanted} == pytest.approx(wanted, abs=1e-12)


def test_classes_and_confusion_equal_scikit_learns():
    p, y, _ = make_predictions()
    result = evaluate_predictions(p, y, names_of(4), QUICK)
    guess = p.argmax(axis=1)
    precision, recall, f1, n = sk.precision_recall_fscore_support(y, guess)
    for k, row in enumerate(result["classes"]):
        assert (row["precision"], row["recall"], row["f1"]) == pytest.approx(
            (precision[k], recall[k], f1[k]), abs=1e-12
        )
        assert row["n"] == n[k]
        assert row["roc_auc"] == pytest.approx(sk.roc_auc_score(y == k, p[:, k]), abs=1e-12)
        assert all(row[f"{s}_low"] <= row[s] <= row[f"{s}_high"] for s in ("precision", "recall", "f1"))
    assert result["confusion"] == sk.confusion_matrix(y, guess).tolist()


def test_every_score_lies_within_its_interval():
    p, y, logits = make_predictions()
    test = evaluate_predictions(p, y, names_of(4), QUICK, logits=logits)["test"]
    scores = [name for name in test if f"{name}_low" in test]
    assert len(scores) == 10
    for name in scores:
        assert test[f"{name}_low"] < test[name] < test[f"{name}_high"], name


def test_calibration_error_of_a_hand_made_case():
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    y = np.array([0, 1, 0, 0])
    gaps = spread_gaps(bin_confidence(p, y, 15)).sum(axis=0, keepdims=True)
    error = score_calibration_error(gaps, np.array([4.0]))
    assert error[0] == pytest.approx((2 * abs(0.5 - 0.9) + 2 * abs(1 - 0.6)) / 4, abs=1e-12)


def test_the_influence_of_an_image_on_a_ranking_is_the_derivative_by_its_weight():
    rng = np.random.default_rng(0)
    positive = rng.random(50) < 0.4
    ranking = rank_images(np.round(positive + rng.normal(size=50), 1), positive)  # ties
    step = 1e-5 * np.eye(50)
    ahead, behind = (score_ranking(ranking, 1 + sign * step) for sign in (1, -1))
    for number, (curve, whole) in enumerate(
        zip(trace_ranking(ranking), score_ranking(ranking, np.ones((1, 50))), strict=True)
    ):
        assert curve.score == pytest.approx(whole[0], abs=1e-12)
        assert curve.influence == pytest.approx((ahead[number] - behind[number]) / 2e-5, abs=1e-8)
        assert curve.influence.sum() == pytest.approx(0, abs=1e-12)


def test_noise_is_the_calibration_error_of_a_calibrated_classifier():
    rng, errors, noises = np.random.default_rng(1), [], []
    for _ in range(300):
        first = rng.uniform(0.5, 1, 100)
        binned = bin_confidence(np.column_stack([first, 1 - first]), (rng.random(100) > first).astype(int), 15)
        errors.append(score_calibration_error(spread_gaps(binned).sum(axis=0, keepdims=True), np.array([100.0]))[0])
        noises.append(measure_noise(binned))
    assert np.mean(noises) == pytest.approx(np.mean(errors), rel=0.1)


def test_losses_without_a_mistake_are_not_called_certain():
    y = np.repeat([0, 1], 30)
    p = np.where(np.eye(2)[y] == 1, 0.999, 0.001)
    test = evaluate_predictions(p, y, names_of(2), QUICK)["test"]
    assert test["log_loss"] < 0.002
    assert test["log_loss_high"] > 0.1  # one in sixty wrong at this confidence
    assert test["brier_high"] > 0.01
    assert test["ece_high"] > 0.01


def test_temperature_shows_in_the_calibration_before_and_after():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (400, 4))
    honest = soften_logits(logits)
    y = (honest.cumsum(axis=1) < rng.random((400, 1))).sum(axis=1)
    result = evaluate_predictions(honest, y, names_of(4), QUICK, logits=logits * 4)
    test = result["test"]
    assert test["ece"] < test["ece_uncalibrated"]
    assert test["log_loss"] < test["log_loss_uncalibrated"]
    assert {row["stage"] for row in result["reliability"]} == {"before", "after"}
    assert sum(row["n"] for row in result["reliability"]) == 800


def test_a_class_without_test_images_is_left_out_and_said():
    p, y, _ = make_predictions()
    p, y = p[y != 2], y[y != 2]
    result = evaluate_predictions(p, y, names_of(4), QUICK)
    absent = result["classes"][2]
    assert result["absent_labels"] == ["class 2"]
    assert "class 2" in result["notes"][0]
    assert absent["n"] == 0
    assert "recall" not in absent
    recalls = [row["recall"] for row in result["classes"] if row["n"]]
    assert result["test"]["balanced_accuracy"] == pytest.approx(np.mean(recalls), abs=1e-12)


def test_a_test_part_of_one_class_has_no_curves_but_a_note():
    p, y, _ = make_predictions()
    result = evaluate_predictions(p[y == 1], y[y == 1], names_of(4), QUICK)
    assert "roc_auc" not in result["test"]
    assert any("ROC-AUC" in note for note in result["notes"])


def test_a_perfect_model_is_not_called_certain():
    y = np.repeat(np.arange(3), 20)
    test = evaluate_predictions(np.eye(3)[y], y, names_of(3), QUICK)["test"]
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "pr_auc"):
        assert test[name] == 1
        assert 0.8 < test[f"{name}_low"] < 0.97, name


def test_everything_wrong_with_the_arrays_is_told_at_once():
    p, y, logits = make_predictions(n=10)
    with pytest.raises(ValueError, match=r"sum to 1.*labels run from 0 to 9.*logits have shape"):
        evaluate_predictions(p * 2, np.arange(10), names_of(4), QUICK, logits=logits[:5])
    with pytest.raises(ValueError, match="no held-out images"):
        evaluate_predictions(p[:0], y[:0], names_of(4), QUICK)
    p[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        evaluate_predictions(p, y, names_of(4), QUICK)


def test_written_files_hold_the_same_numbers_and_the_same_bytes(tmp_path):
    p, y, logits = make_predictions(n=30)
    names = ["a,b", 'say "c"', "d", "e"]
    result = evaluate_predictions(p, y, names, QUICK, logits=logits)
    for folder in (tmp_path / "one", tmp_path / "two"):
        shown = {"sha256s": [f"{i:064x}" for i in range(30)], "paths": [f"d/{i}.jpg" for i in range(30)]}
        write_evaluation(folder, result, **shown, labels=y, probabilities=p)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["confusion.csv", "metrics.json", "predictions.csv", "reliability.csv"]
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)
    saved = json.loads((tmp_path / "one" / "metrics.json").read_text())
    assert saved["test"]["accuracy"] == pytest.approx(result["test"]["accuracy"], abs=1e-9)
    assert all(isinstance(value, int | float) for value in saved["test"].values())
    rows = list(csv.DictReader((tmp_path / "one" / "predictions.csv").read_text().splitlines()))
    assert len(rows) == 30
    assert (rows[3]["label"], rows[3]["path"]) == (names[y[3]], "d/3.jpg")
    assert float(rows[3]["p_a,b"]) == pytest.approx(p[3, 0], abs=1e-9)
    pairs = list(csv.DictReader((tmp_path / "one" / "confusion.csv").read_text().splitlines()))
    assert sum(row["actual"] == row["predicted"] for row in pairs) == int(np.sum(p.argmax(axis=1) == y))


def test_writing_again_leaves_nothing_of_the_old_folder(tmp_path):
    p, y, _ = make_predictions(n=20)
    result = evaluate_predictions(p, y, names_of(4), QUICK)
    into = tmp_path / "evaluation"
    into.mkdir()
    (into / "stale.csv").write_text("old")
    write_evaluation(into, result, sha256s=["0"] * 20, paths=["a"] * 20, labels=y, probabilities=p)
    assert not (into / "stale.csv").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation"]
