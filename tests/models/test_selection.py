import numpy as np
import pytest

from models.backbones import BackboneError
from models.candidates import choose_fit, sample_rows, score_features
from models.selection import (
    Candidate,
    SelectConfig,
    decide,
    load_selection,
    save_selection,
    select_backbone,
)
from serving.preprocess import PreprocessSpec

SPEC = PreprocessSpec(size_px=32, fit="squash", interpolation="bilinear")


def row(name, score, gflops, error=0.01):
    return Candidate(
        name=name, score=score, low=score - 0.02, high=score + 0.02, standard_error=error, gflops=gflops,
        parameters=10, licence="MIT", sha256="0", source="hub", strength=1.0, preprocess=SPEC,
    )  # fmt: skip


def test_the_least_work_within_one_standard_error_of_the_best_is_chosen():
    verdict = decide([row("small", 0.951, 0.3), row("best", 0.96, 2.0), row("tiny", 0.949, 0.1)], 240, 6)
    assert (verdict.chosen, verdict.threshold) == ("small", 0.95)
    assert [r.name for r in verdict.ranking] == ["best", "small", "tiny"]
    assert "within one standard error" in verdict.reason


def test_of_equal_work_the_better_score_is_chosen():
    assert decide([row("insects", 0.955, 0.6), row("things", 0.96, 0.6)], 240, 6).chosen == "things"


def test_a_clear_winner_is_chosen_whatever_it_costs():
    verdict = decide([row("small", 0.90, 0.3), row("large", 0.96, 9.0)], 240, 6)
    assert verdict.chosen == "large"
    assert "the best of 2" in verdict.reason


def test_order_of_candidates_does_not_matter():
    rows = [row("a", 0.95, 0.3), row("b", 0.95, 0.3), row("c", 0.95, 0.3)]
    assert decide(rows, 240, 6) == decide(rows[::-1], 240, 6)


def test_samples_are_spread_over_the_classes():
    labels = np.array([0] * 100 + [1] * 30 + [2] * 3)
    rows = sample_rows(labels, np.arange(133), 23, seed=0)
    assert np.bincount(labels[rows]).tolist() == [10, 10, 3]
    assert (np.diff(rows) > 0).all()
    assert len(sample_rows(labels, np.arange(133), 500, seed=0)) == 133
    assert not np.array_equal(rows, sample_rows(labels, np.arange(133), 23, seed=1))


def test_near_squares_are_squashed_and_photographs_cropped():
    square, photo = np.tile([[200, 200]], (9, 1)), np.tile([[500, 375]], (2, 1))
    assert choose_fit("auto", square) == "squash"
    assert choose_fit("auto", np.concatenate([square, photo])) == "crop"
    assert choose_fit("auto", np.array([[115, 100]])) == "squash"
    assert choose_fit("auto", np.array([[116, 100]])) == "crop"
    assert choose_fit("letterbox", square) == "letterbox"


def test_cross_validated_scores_tell_signal_from_noise():
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    signal = np.eye(3)[labels] * 6 + generator.normal(size=(60, 3))
    noise = generator.normal(size=(60, 40))
    settings = {"strengths": (0.01, 1.0), "folds": 5, "repeats": 2, "seed": 0}
    right, _ = score_features(signal.astype(np.float32), labels, **settings)
    wrong, _ = score_features(noise.astype(np.float32), labels, **settings)
    assert right.shape == (2, 60)
    assert right.mean() > 0.98
    assert wrong.mean() < 0.55


@pytest.fixture
def workspace(make_backbone, stripes, tmp_path):
    make_backbone(tmp_path / "mirror", "test_resnet.tiny")
    make_backbone(tmp_path / "mirror", "test_vit.tiny", img_size=32)
    pixels, labels = stripes(20, noise=60)
    parts = np.array(["train"] * 48 + ["test"] * 12)

    def select(**settings):
        asked: list[np.ndarray] = []
        config = SelectConfig(
            **({"candidates": ["test_vit.tiny", "test_resnet.tiny"], "mirror": str(tmp_path / "mirror")} | settings),
            max_images=30, device="cpu", threads=1,
        )  # fmt: skip
        answer = select_backbone(
            lambda spec, rows: asked.append(rows) or pixels[rows], labels, parts, np.full((60, 2), 32), config,
            store=tmp_path / "store", lock=tmp_path / "lock.json",
        )  # fmt: skip
        return *answer, asked

    return select


def test_only_training_images_are_looked_at_and_the_result_is_repeatable(workspace, tmp_path):
    selection, backbone, asked = workspace()
    assert all(rows.max() < 48 and len(rows) == 30 for rows in asked)
    assert selection.n == 30
    again, _, _ = workspace()
    assert again.model_dump_json() == selection.model_dump_json()
    save_selection(selection, backbone, tmp_path / "selection")
    first = (tmp_path / "selection" / "selection.json").read_bytes()
    save_selection(again, backbone, tmp_path / "selection")
    assert (tmp_path / "selection" / "selection.json").read_bytes() == first
    assert str(tmp_path) not in first.decode()
    loaded, copy = load_selection(tmp_path / "selection")
    assert loaded == selection
    assert (copy.name, copy.sha256) == (selection.chosen, backbone.sha256)
    assert (copy.folder / "model.safetensors").read_bytes() == (backbone.folder / "model.safetensors").read_bytes()


def test_auto_takes_all_of_the_mirror(workspace):
    selection, _, _ = workspace(candidates="auto")
    assert {"test_resnet.tiny", "test_vit.tiny"} <= {r.name for r in selection.ranking}


def test_a_candidate_that_cannot_be_had_is_an_error(workspace, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BackboneError, match=r"test_resnet\.other"):
        workspace(candidates=["test_resnet.tiny", "test_resnet.other"])


def test_a_class_with_one_training_image_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="smallest with 1"):
        select_backbone(
            lambda spec, rows: rows, np.array([0, 0, 1]), np.array(["train"] * 3), np.full((3, 2), 32),
            SelectConfig(candidates=["a.b"]), store=tmp_path, lock=tmp_path / "l",
        )  # fmt: skip
