"""Verdicts on windows with planted shifts: lamps, mixes, both, nothing, and too little."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

from regraft.data.drift.config import WatchConfig
from regraft.data.drift.reference import Answers as State
from regraft.data.drift.reference import Reference, build_reference, widen_reference
from regraft.data.drift.verdict import judge_window
from regraft.serving.decoding.quality import QUALITY_NAMES

CLASSES, WIDTH = 4, 8
LABELS = ("dent", "hole", "rust", "scratch")
BRIGHTNESS = QUALITY_NAMES.index("brightness")


@dataclass(frozen=True)
class Answers:
    """What the prediction log would hand over."""

    probabilities: np.ndarray
    embeddings: np.ndarray
    quality: np.ndarray
    image_sha256: list[str]

    def with_quality(self, column: int, values: np.ndarray | float) -> "Answers":
        quality = self.quality.copy()
        quality[:, column] = values
        return replace(self, quality=quality)


def make_world(n: int, seed: int, mix: tuple[float, ...] | None = None) -> tuple[np.ndarray, ...]:
    """Return embeddings, softmax, quality and labels of a model that is right in nine cases of ten."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(CLASSES, n, p=mix)
    centres = np.eye(CLASSES, WIDTH) * 3
    embeddings = centres[labels] + rng.normal(size=(n, WIDTH))
    logits = embeddings[:, :CLASSES] * 1.5
    softmax = np.exp(logits - logits.max(axis=1, keepdims=True))
    quality = rng.normal(0.5, 0.05, size=(n, len(QUALITY_NAMES))) + 0.02 * labels[:, None]
    quality[:, -2:] = (14.0, 0.0)
    return embeddings, softmax / softmax.sum(axis=1, keepdims=True), quality, labels


def make_window(reference: Reference, n: int, seed: int, mix: tuple[float, ...] | None = None) -> Answers:
    embeddings, softmax, quality, _ = make_world(n, seed, mix)
    reduced = (embeddings - reference.embedding_mean) @ reference.embedding_components.T
    return Answers(softmax, reduced, quality, [f"{seed}-{index}" for index in range(n)])


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference.of(build_reference(*make_world(300, 0), dims=4))


def test_the_same_line_is_quiet(reference: Reference) -> None:
    verdict = judge_window(reference, make_window(reference, 200, 1), labels=LABELS)
    assert (verdict.decision, verdict.kind, verdict.drifted) == ("quiet", "none", False)
    assert verdict.p_value > verdict.alpha
    assert abs(verdict.estimated_accuracy - verdict.reference_accuracy) < 0.1


def test_quiet_lines_raise_no_more_alarms_than_promised() -> None:
    config = WatchConfig(false_alarms_per_month=72)  # hourly: a chance of 0.05 a window
    alarms = 0
    for seed in range(30):
        fresh = Reference.of(build_reference(*make_world(250, 1000 + seed), dims=4, basis=make_world(250, seed)[0]))
        alarms += sum(judge_window(fresh, make_window(fresh, 100, 5000 + 3 * seed + k), config).drifted for k in (0, 1))
    assert alarms <= 8  # 60 windows at 0.05: more than 8 has a chance of 0.3 %


def test_a_darker_lamp_is_an_image_drift_and_the_reason_says_so(reference: Reference) -> None:
    window = make_window(reference, 100, 2)
    dark = window.with_quality(BRIGHTNESS, window.quality[:, BRIGHTNESS] - 0.2)
    verdict = judge_window(reference, dark, labels=LABELS)
    assert (verdict.decision, verdict.kind) == ("drift", "image")
    assert verdict.changes[0].name == "brightness"
    assert verdict.changes[0].window_median < verdict.changes[0].reference_median
    assert "darker (brightness 0.5" in verdict.reason and "lamp" in verdict.reason


def test_a_new_image_size_is_an_image_drift(reference: Reference) -> None:
    window = make_window(reference, 100, 3).with_quality(QUALITY_NAMES.index("log2_pixels"), 16.0)
    verdict = judge_window(reference, window)
    assert verdict.kind == "image" and "larger (log2_pixels 14 -> 16)" in verdict.reason


def test_a_change_that_only_the_model_sees_is_an_image_drift(reference: Reference) -> None:
    window = make_window(reference, 100, 4)
    moved = window.embeddings + np.array([0, 0, 0, 3.0])
    verdict = judge_window(reference, replace(window, embeddings=moved))
    assert verdict.kind == "image" and not verdict.changes
    assert "new material" in verdict.reason


@pytest.mark.parametrize("seed", range(6))
def test_another_mix_of_classes_is_a_label_drift_and_names_the_class(reference: Reference, seed: int) -> None:
    window = make_window(reference, 200, 10 + seed, mix=(0.1, 0.1, 0.7, 0.1))
    verdict = judge_window(reference, window, labels=LABELS)
    assert (verdict.decision, verdict.kind) == ("drift", "label")
    assert verdict.class_shares["rust"][1] == pytest.approx(0.7, abs=0.15)
    assert "More images of rust" in verdict.reason


def test_a_window_of_one_class_only_is_a_label_drift(reference: Reference) -> None:
    assert judge_window(reference, make_window(reference, 100, 20, mix=(0, 1.0, 0, 0))).kind == "label"


def test_a_new_mix_under_a_new_lamp_is_both_while_the_model_still_works(reference: Reference) -> None:
    window = make_window(reference, 200, 5, mix=(0.1, 0.1, 0.7, 0.1))
    verdict = judge_window(reference, window.with_quality(BRIGHTNESS, 0.9))
    assert verdict.kind == "both"


def test_predictions_of_a_model_that_fails_are_no_evidence_for_another_mix(reference: Reference) -> None:
    window = make_window(reference, 200, 6).with_quality(BRIGHTNESS, 0.9)
    guesses = np.tile([0.1, 0.2, 0.4, 0.3], (200, 1))
    assert judge_window(reference, replace(window, probabilities=guesses)).kind == "image"


def test_nan_figures_are_a_drift_and_the_verdict_is_still_json(reference: Reference) -> None:
    window = make_window(reference, 100, 7).with_quality(BRIGHTNESS, np.nan)
    window.embeddings[:20] = np.nan
    window.probabilities[:20] = np.nan
    verdict = judge_window(reference, window)
    assert verdict.drifted
    read = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    assert read["changes"][0]["window_median"] is None


@pytest.mark.parametrize(("n", "decision"), [(0, "insufficient"), (49, "insufficient"), (50, "quiet")])
def test_too_few_images_are_never_called_quiet(reference: Reference, n: int, decision: str) -> None:
    verdict = judge_window(reference, make_window(reference, n, 8))
    assert (verdict.decision, verdict.kind, verdict.n) == (decision, "none", n)
    json.dumps(verdict.to_json(), allow_nan=False)


def test_an_empty_log_is_insufficient_whatever_its_width(reference: Reference) -> None:
    empty = np.empty((0, 0), np.float32)
    assert judge_window(reference, Answers(empty, empty, empty, [])).decision == "insufficient"


def test_one_image_sent_many_times_counts_once(reference: Reference) -> None:
    window = replace(make_window(reference, 200, 9), image_sha256=["same"] * 160 + [str(n) for n in range(40)])
    verdict = judge_window(reference, window)
    assert (verdict.decision, verdict.n, verdict.repeats) == ("insufficient", 41, 159)


def test_a_window_of_another_version_is_refused_with_every_wrong_width(reference: Reference) -> None:
    window = make_window(reference, 60, 11)
    other = replace(window, probabilities=window.probabilities[:, :3], embeddings=window.embeddings[:, :2])
    with pytest.raises(ValueError, match=r"probabilities has shape \(60, 3\).*embeddings has shape \(60, 2\)"):
        judge_window(reference, other)


def test_many_classes_are_tested_on_the_most_frequent_ones() -> None:
    rng = np.random.default_rng(0)
    softmax = rng.dirichlet(np.full(40, 0.1), 200)
    embeddings, _, quality, _ = make_world(200, 0)
    many = Reference.of(build_reference(embeddings, softmax, quality, softmax.argmax(axis=1), dims=4))
    window = Answers(
        rng.dirichlet(np.full(40, 0.1), 80), many.embeddings[:80], quality[:80], [str(n) for n in range(80)]
    )
    verdict = judge_window(many, window)
    assert verdict.decision == "quiet"
    assert len(verdict.families["softmax"].columns) == 21


def test_equal_windows_give_equal_verdicts(reference: Reference) -> None:
    first, again = (judge_window(reference, make_window(reference, 100, 12)) for _ in range(2))
    assert first == again


def test_a_window_that_looks_like_a_known_state_is_quiet_and_says_so(reference: Reference) -> None:
    def darken(seed: int, by: float) -> Answers:
        window = make_window(reference, 150, seed)
        return window.with_quality(BRIGHTNESS, window.quality[:, BRIGHTNESS] - by)

    audited = darken(40, 0.1)
    state = State(audited.embeddings, audited.probabilities, audited.quality)
    known = widen_reference(reference, [state])
    assert len(known) == 2  # by itself, and together with the reference
    alone = judge_window(reference, darken(41, 0.1))
    verdict = judge_window(reference, darken(41, 0.1), known=known)
    assert (alone.decision, verdict.decision, verdict.kind) == ("drift", "quiet", "none")
    assert "found to do no harm" in verdict.reason and verdict.p_value > alone.p_value
    assert verdict.estimated_accuracy == alone.estimated_accuracy
    assert judge_window(reference, darken(42, 0.3), known=known).drifted
    plain = judge_window(reference, make_window(reference, 150, 43), known=known)
    assert plain.decision == "quiet" and "found to do no harm" not in plain.reason


def test_an_odd_reference_is_no_slow_change_once_its_line_was_audited() -> None:
    arrays = make_world(60, 3)
    arrays[2][:, BRIGHTNESS] += 0.035  # by chance, the held-out images were bright ones
    odd = Reference.of(build_reference(*arrays, dims=4))
    audited = make_window(odd, 200, 50)
    known = widen_reference(odd, [State(audited.embeddings, audited.probabilities, audited.quality)])
    before, after = (
        [judge_window(odd, make_window(odd, 200, 60 + seed), known=states).p_value for seed in range(20)]
        for states in ((), known)
    )
    assert all(late >= early for early, late in zip(before, after, strict=True))
    assert sum(p <= 0.05 for p in after) < sum(p <= 0.05 for p in before)
