import shutil

import numpy as np
import pytest
import timm
import torch

from regraft.models.backbones.network import BackboneError
from regraft.models.selection.candidates import SelectionError, find_objection, list_fits, profile_aspects, sample_rows
from regraft.models.selection.decide import decide
from regraft.models.selection.rating import count_repeats, settle_statistics
from regraft.models.selection.result import Candidate, SelectConfig, load_selection, save_selection
from regraft.models.selection.select import ImagesOnDemand, SelectionPaths, select_backbone
from regraft.models.selection.successive_halving import Trial, choose_candidates, leads
from regraft.serving.decoding.preprocess import PreprocessSpec
from regraft.tasks.settings.refusals import is_refusal

SPEC = PreprocessSpec(size_px=32, fit="squash", interpolation="bilinear")


def row(name, score, gflops, error=0.01, rank=1.0, loss=0.5, parc=0.0):
    return Candidate(
        name=name, score=score, low=score - 0.02, high=score + 0.02, standard_error=error, rank=rank, chance=0.5,
        loss=loss, merit=score, knn=score, ridge=score, log_evidence=0.0, h_score=0.0, parc=parc, prior=None,
        record=None, last_round=None, gflops=gflops, nominal_ms=1.0, latency_ms=None, parameters=10, licence="MIT",
        sha256="0", source="hub",
        c=1.0, adapt_images=0, preprocess=SPEC,
    )  # fmt: skip


FAST = SelectConfig(prefer="speed")


def test_who_prefers_speed_gets_the_least_work_within_one_standard_error_of_the_best():
    rows = [row("small", 0.951, 0.3), row("best", 0.96, 2.0), row("tiny", 0.949, 0.1)]
    assert decide(rows, [], {}, FAST)[0] == "small"
    assert decide([row("small", 0.90, 0.3), row("large", 0.96, 9.0)], [], {}, FAST)[0] == "large"
    assert decide(rows[::-1], [], {}, FAST) == decide(rows, [], {}, FAST)


def test_without_fine_tuning_the_best_evidence_of_the_best_mean_ranks_is_taken():
    rows = [
        row("a", 0.9, 9.0, rank=1.0, loss=0.40, parc=0.50),
        row("b", 0.8, 0.1, rank=2.0, loss=0.30, parc=0.55),
        row("c", 0.9, 1.0, rank=3.0, loss=0.31, parc=0.40),
        row("d", 0.9, 1.0, rank=4.0, loss=0.90, parc=0.56),
        row("e", 0.9, 1.0, rank=5.0, loss=0.01, parc=0.99),
    ]
    chosen, reason = decide(rows, [], {}, SelectConfig())
    assert chosen == "b"  # "e" is not among the best four mean ranks
    assert "of the 4 best mean ranks: PARC 0.550, log loss 0.300; next is a: PARC 0.500, log loss 0.400" in reason
    assert decide([rows[0], row("twin", 0.9, 1.0, loss=0.4, parc=0.5)], [], {}, SelectConfig())[0] == "a"
    assert "only candidate" in decide(rows[:1], [], {}, SelectConfig())[1]


def trial(name, number, chance=0.5, steps=4):
    return Trial(name, number, 6.0, 0.9, 0.9, chance, steps)


def test_the_last_round_decides_together_with_the_rank():
    rows = [row("a", 0.9, 1.0, rank=1.0), row("b", 0.9, 1.0, rank=2.0), row("c", 0.9, 1.0, rank=3.0)]
    trials = [trial("a", 1), trial("b", 1), trial("c", 1), trial("b", 2), trial("c", 2)]
    merits = {"a": np.array([1.0]), "b": np.array([0.8]), "c": np.array([0.7])}
    assert decide(rows, trials, merits, SelectConfig())[0] == "b"  # "a" did not reach the last round
    even = merits | {"c": np.array([0.9])}  # fine-tuning says c, the rank b: fine-tuning breaks the tie
    assert decide(rows, trials, even, SelectConfig())[0] == "c"


def test_fine_tuning_counts_in_a_trial_only_where_it_leads_by_more_than_chance():
    labels = np.arange(40) % 2
    probe = np.where(np.eye(2)[labels] > 0, 1.0, 0.0)
    noise = np.random.default_rng(0).normal(0, 2, (40, 2))
    assert leads(probe + np.eye(2)[labels], probe, labels)
    assert not leads(probe + noise - noise.mean(axis=0), probe, labels)
    assert not leads(probe, probe, labels)


def test_the_favourite_always_starts_and_three_at_least():
    chances = {"a": 0.9, "b": 0.06, "c": 0.03, "d": 0.01, "e": 0.0}
    assert choose_candidates(chances, "e", 4, 0.05) == ["a", "b", "c", "e"]
    assert choose_candidates(chances, None, 2, 0.05) == ["a", "b"]


def test_the_fewer_the_images_the_oftener_they_are_dealt():
    assert [count_repeats(images) for images in (4, 30, 70, 150, 299, 300, 1000)] == [10, 10, 4, 2, 1, 1, 1]


@pytest.mark.parametrize(
    ("leads", "settled"),
    [
        ([], False),
        ([-3.0], False),
        ([-3.0, -2.0], True),
        ([None, -3.0, None, -2.0], True),  # who has no BatchNorm says nothing
        ([-3.0, -0.5], False),
        ([-3.0, -2.0, 1.5], False),
    ],
)
def test_two_clear_losses_settle_the_statistics_and_one_gain_never_does(leads, settled):
    assert settle_statistics(leads) == settled


def test_gates_name_what_they_refuse():
    limits = {"forbidden": ["*-nc-*"], "max_parameters": 100, "max_latency_ms": 5.0}
    assert "CC-BY-NC-4.0" in find_objection("CC-BY-NC-4.0", 10, 1.0, **limits)
    assert "200 parameters" in find_objection("MIT", 200, 1.0, **limits)
    assert "7.5 ms" in find_objection("MIT", 10, 7.5, **limits)
    assert find_objection("MIT", 10, 1.0, **limits) is None


def test_a_centre_crop_removes_what_lies_outside_the_square():
    profile = profile_aspects(np.array([[200, 100], [100, 100]]))
    assert profile.cropped == pytest.approx(1 / 3)
    assert profile.near_square == 0.5
    assert "33.3% of all pixels" in profile.describe()


def test_samples_are_spread_over_the_classes():
    labels = np.array([0] * 100 + [1] * 30 + [2] * 3)
    rows = sample_rows(labels, np.arange(133), 23, seed=0)
    assert np.bincount(labels[rows]).tolist() == [10, 10, 3]
    assert (np.diff(rows) > 0).all()
    assert len(sample_rows(labels, np.arange(133), 500, seed=0)) == 133
    assert not np.array_equal(rows, sample_rows(labels, np.arange(133), 23, seed=1))


def test_near_squares_are_squashed_and_others_compared():
    square, photo = np.tile([[200, 200]], (9, 1)), np.tile([[500, 375]], (2, 1))
    assert list_fits("auto", profile_aspects(square)) == ["squash"]
    assert list_fits("auto", profile_aspects(np.concatenate([square, photo]))) == ["squash", "crop", "letterbox"]
    assert list_fits("auto", profile_aspects(np.array([[115, 100]]))) == ["squash"]
    assert len(list_fits("auto", profile_aspects(np.array([[116, 100]])))) == 3
    assert list_fits("letterbox", profile_aspects(square)) == ["letterbox"]


def test_one_of_a_mirror_that_cannot_be_had_is_named_and_none_is_an_error(workspace, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("regraft.models.backbones.hub.embedded_folder", lambda: tmp_path / "none")
    (tmp_path / "mirror" / "test_vit.tiny" / "model.safetensors").rename(
        tmp_path / "mirror" / "test_vit.tiny" / "w.bin"
    )
    selection, *_ = workspace(candidates="auto")
    assert selection.chosen == "test_resnet.tiny"
    assert "only pickled weights (w.bin)" in selection.refused["test_vit.tiny"]
    with pytest.raises(BackboneError, match="only pickled"):  # whoever is named must come
        workspace()
    shutil.rmtree(tmp_path / "mirror" / "test_resnet.tiny")
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(BackboneError, match=r"nothing that mirror .* offers can be used\. test_vit\.tiny"):
        workspace(candidates="auto")


def test_a_policy_that_leaves_nobody_is_an_answer_and_no_fault(workspace):
    with pytest.raises(
        SelectionError, match=r"no candidate may compete .*Apache-2\.0 is ruled out by 'apache\*'"
    ) as no:
        workspace(forbidden_licences=["apache*"])
    assert is_refusal(no.value)


@pytest.fixture
def workspace(make_backbone, stripes, tmp_path):
    make_backbone(tmp_path / "mirror", "test_resnet.tiny")
    make_backbone(tmp_path / "mirror", "test_vit.tiny", img_size=32)
    pixels, labels = stripes(20, noise=60)
    parts = np.array(["train"] * 48 + ["test"] * 12)

    def select(**settings):
        asked: list[np.ndarray] = []
        config = SelectConfig(
            **({"candidates": ["test_vit.tiny", "test_resnet.tiny"], "mirror": str(tmp_path / "mirror"),
                "halving_images": 0, "halving_budget_s": 0.2} | settings),
            max_images=30, adapt_images=10, device="cpu", threads=1,
        )  # fmt: skip
        images = ImagesOnDemand(
            lambda spec, rows: asked.append(rows) or pixels[rows], labels, parts, np.full((60, 2), 32)
        )
        answer = select_backbone(images, config, SelectionPaths(tmp_path / "store", tmp_path / "lock.json"))
        return *answer, asked

    return select


@pytest.mark.slow
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


def test_rounds_are_planned_only_where_halving_is_wanted_and_can_tell():
    assert SelectConfig().count_rounds(150) == 2
    assert SelectConfig().count_rounds(149) == 0
    assert SelectConfig(prefer="speed").count_rounds(300) == SelectConfig(halving_budget_s=0).count_rounds(300) == 0


@pytest.mark.slow
def test_few_images_are_no_ground_for_halving(workspace):
    compared, _, _ = workspace(halving_images=30, settled=1.0)
    assert {trial["round"] for trial in compared.trials} == {1}  # of two candidates one is left
    few, _, _ = workspace(halving_images=31, settled=1.0)
    assert (few.trials, few.rivals[0].basis) == ([], "probe")
    assert "PARC" in few.reason


@pytest.mark.slow
def test_a_budget_that_affords_no_step_is_not_called_fine_tuning(workspace):
    asked = {"halving_images": 30, "settled": 1.0, "enough": 1.0}
    poor, _, _ = workspace(**asked, halving_budget_s=1e-6)
    assert {trial["steps"] for trial in poor.trials} == {0}
    assert "affords no step of fine-tuning" in poor.reason and "successive halving" not in poor.reason
    assert all(row.last_round is None for row in poor.ranking)
    assert {rival.basis for rival in poor.rivals} == {"probe"}
    rich, _, _ = workspace(**asked)
    assert all(trial["steps"] > 0 for trial in rich.trials)
    assert "wins successive halving" in rich.reason


@pytest.mark.slow
def test_what_is_good_enough_is_not_fine_tuned_to_find_better(workspace):
    asked = {"halving_images": 30, "settled": 1.0}
    compared, _, _ = workspace(**asked)
    low = compared.winner.low  # of tiny networks with random weights: far from good
    assert compared.trials
    assert workspace(**asked, enough=low + 0.01)[0].trials
    spared, _, _ = workspace(**asked, enough=min(row.low for row in compared.ranking))
    assert spared.trials == []
    assert "PARC" in spared.reason


@pytest.mark.slow
def test_auto_takes_all_of_the_mirror(workspace):
    selection, _, _ = workspace(candidates="auto")
    assert {"test_resnet.tiny", "test_vit.tiny"} <= {r.name for r in selection.ranking}


@pytest.fixture
def branching():
    """A timm architecture, by its name, whose path depends on the data: it trains, but no graph can be written."""

    class Branching(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.num_features = 64
            self.body = timm.create_model("test_resnet", num_classes=0)

        def forward(self, images):
            return self.body(images) if images.mean() > 9 else self.body(-images)

    def test_branching(pretrained=False, **_):
        return Branching()

    timm.models.register_model(test_branching)
    return "test_branching"


@pytest.mark.slow
def test_a_choice_that_cannot_be_served_falls_to_the_next(workspace, make_backbone, branching, tmp_path):
    make_backbone(tmp_path / "mirror", f"{branching}.tiny", seed=3)
    selection, _, _ = workspace(candidates=[f"{branching}.tiny", "test_vit.tiny"], halving_rounds=0)
    assert (selection.chosen, list(selection.refused)) == ("test_vit.tiny", [f"{branching}.tiny"])
    assert [row.name for row in selection.ranking] == ["test_vit.tiny"]
    with pytest.raises(ValueError, match=rf"{branching}\.tiny: no graph of it can be exported"):
        workspace(candidates=[f"{branching}.tiny"])


def test_a_candidate_that_cannot_be_had_is_an_error(workspace, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BackboneError, match=r"test_resnet\.other"):
        workspace(candidates=["test_resnet.tiny", "test_resnet.other"])


def test_a_class_with_one_training_image_is_an_error(tmp_path):
    images = ImagesOnDemand(lambda spec, rows: rows, np.array([0, 0, 1]), np.array(["train"] * 3), np.full((3, 2), 32))
    with pytest.raises(ValueError, match="smallest with 1"):
        select_backbone(images, SelectConfig(candidates=["a.b"]), SelectionPaths(tmp_path, tmp_path / "l"))
