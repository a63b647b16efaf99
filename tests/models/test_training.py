import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from regraft.models.backbones.intermediate_features import list_widths, stage_backbone
from regraft.models.backbones.network import build_backbone, read_input
from regraft.models.classifier.checkpoint import CheckpointError, load_checkpoint
from regraft.models.compute.budget import TrainingPlan
from regraft.models.compute.cost import group_by_depth
from regraft.models.compute.snapshots import ResumeFolder, Snapshot
from regraft.models.features.adabn import list_batchnorms
from regraft.models.features.extract import extract_features
from regraft.models.heads.data import LabelledImages, TrainingData
from regraft.models.heads.head_views import HeadConfig
from regraft.models.statistics.merits import rate_hits
from regraft.models.training.augmentation import AugmentConfig
from regraft.models.training.batches import PixelFeed
from regraft.models.training.config import FinetuneConfig
from regraft.models.training.finetune import FinetunePaths, build_classifier, finetune
from regraft.models.training.loop import run_training, set_training_mode
from regraft.models.training.model_choice import Choice, choose_weights, spare_training
from regraft.models.training.optimizer import LoopConfig, build_optimizer
from regraft.models.training.step import Stepper, TrainingDiverged, TrainingSetup
from regraft.serving.decoding.preprocess import PreprocessSpec

STILL = AugmentConfig(flip_horizontal=False, shift_share=0, brightness=0, contrast=0)
SPEC = PreprocessSpec(size_px=32, fit="squash", interpolation="bilinear")
QUICK = FinetuneConfig(max_epochs=2, batch_size=8, device="cpu", threads=1, head=HeadConfig(views=0))


def plan_of(steps, *, per_epoch=4, frozen=0, batch=8):
    return TrainingPlan(steps, per_epoch, frozen, 10, batch, "a test")


@pytest.fixture
def task(make_backbone, stripes, tmp_path):
    """Return backbone, pixels, labels and parts of a small problem: 36 training and 18 validation images."""
    pixels, labels = stripes(18)
    parts = np.array(["train"] * 36 + ["validation"] * 18)
    return make_backbone(tmp_path / "store"), pixels, labels, parts


def train(task, tmp_path, config=QUICK, name="out"):
    backbone, *arrays = task
    images = LabelledImages(*arrays, ["a", "b", "c"])
    info = finetune(backbone, images, SPEC, config, FinetunePaths(tmp_path / name, tmp_path / f"{name}-state"))
    return info, tmp_path / name


def prepare(backbone, batch=8, frozen=0, config=None):
    network = stage_backbone(build_backbone(backbone.folder), 32)
    widths = list_widths(network, 32)
    wanted = read_input(backbone.folder).normalization
    classifier = build_classifier(network, wanted, widths, 3, torch.device("cpu"))
    optimizer = build_optimizer(classifier, frozen, config or LoopConfig(augment=STILL))
    set_training_mode(classifier, batch)
    return classifier, optimizer


def set_up(classifier, data, plan, config=None):
    feed = PixelFeed(classifier, data, STILL, seed=0)
    return TrainingSetup(feed, data, plan, config or LoopConfig(augment=STILL), seed=0)


def test_loss_falls_on_eight_images_that_can_be_memorised(task):
    backbone, pixels, labels, _ = task
    config = LoopConfig(augment=STILL, backbone_lr=1e-3, head_lr=1e-2, label_smoothing=0)
    classifier, optimizer = prepare(backbone, config=config)
    data = TrainingData(pixels, labels, np.arange(8), np.arange(8))
    setup = set_up(classifier, data, plan_of(40, per_epoch=1), config)
    stepper = Stepper(classifier, optimizer, setup)
    for step in range(40):
        stepper.take(step)
    losses = stepper.settle()
    assert losses[0] == pytest.approx(np.log(3), abs=1e-4)  # an empty head knows nothing
    assert losses[-1] < 0.1


def test_frozen_groups_keep_every_bit_and_the_others_move(task):
    backbone, pixels, labels, _ = task
    classifier, optimizer = prepare(backbone, batch=32, frozen=3)
    torch.nn.init.normal_(classifier.head.weight)
    groups = group_by_depth(classifier.backbone)
    before = {name: value.clone() for name, value in classifier.backbone.state_dict().items()}
    data = TrainingData(pixels, labels, np.arange(36), np.arange(8))
    Stepper(classifier, optimizer, set_up(classifier, data, plan_of(4, per_epoch=1, batch=32))).take(0)
    after = classifier.backbone.state_dict()
    assert {0, 1, 2, 3} <= set(groups.values())
    for name, group in groups.items():
        assert torch.equal(after[name], before[name]) == (group < 3), name
    for name, module in classifier.backbone.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            frozen = groups[f"{name}.weight"] < 3
            assert torch.equal(after[f"{name}.running_mean"], before[f"{name}.running_mean"]) == frozen, name


@pytest.mark.parametrize(("batch", "moves"), [(31, False), (32, True)])
def test_batchnorm_statistics_stay_put_in_small_batches(task, batch, moves):
    backbone, pixels, labels, _ = task
    classifier, optimizer = prepare(backbone, batch=batch)
    before = [layer.running_var.clone() for layer in list_batchnorms(classifier.backbone)]
    data = TrainingData(pixels, labels, np.arange(36), np.arange(8))
    Stepper(classifier, optimizer, set_up(classifier, data, plan_of(4, per_epoch=1, batch=batch))).take(0)
    after = [layer.running_var for layer in list_batchnorms(classifier.backbone)]
    assert all(torch.equal(a, b) != moves for a, b in zip(after, before, strict=True))


def test_rates_fall_with_depth_and_norms_are_not_decayed(task):
    classifier, optimizer = prepare(task[0])
    peaks = {group["peak"] for group in optimizer.param_groups}
    deepest = max(group_by_depth(classifier.backbone).values())
    expected = {LoopConfig().head_lr, *(3e-4 * 0.9 ** (deepest - i) for i in range(deepest + 1))}
    assert sorted(peaks) == pytest.approx(sorted(expected))
    for group in optimizer.param_groups:
        assert {parameter.ndim == 1 for parameter in group["params"]} == {group["weight_decay"] == 0}
    kinds = [(group["peak"], group["weight_decay"]) for group in optimizer.param_groups]
    assert len(kinds) == len(set(kinds)) < len(list(classifier.parameters()))  # one group for each pair


def test_a_loss_that_is_not_finite_ends_with_advice(task, tmp_path):
    backbone, pixels, labels, _ = task
    classifier, _ = prepare(backbone)
    with torch.no_grad():
        classifier.head.bias[0] = torch.nan
    data = TrainingData(pixels, labels, np.arange(36), np.arange(36, 54))
    before = classifier.head.weight.clone()
    with pytest.raises(TrainingDiverged, match=r"nan .*step 1 of 8, in epoch 1,.*Lower finetune\.loop\.backbone_lr"):
        run_training(
            classifier,
            set_up(classifier, data, plan_of(8), LoopConfig()),
            ResumeFolder(tmp_path / "s", "k"),
            stop_s=60,
        )
    assert torch.equal(classifier.head.weight, before)


def test_same_seed_gives_same_bytes_and_another_seed_others(task, tmp_path):
    _, one = train(task, tmp_path, name="one")
    _, two = train(task, tmp_path, name="two")
    _, other = train(task, tmp_path, QUICK.model_copy(update={"seed": 1}), name="other")
    for file in ("model.safetensors", "checkpoint.json", "history.csv"):
        assert (one / file).read_bytes() == (two / file).read_bytes(), file
    assert (one / "history.csv").read_bytes() != (other / "history.csv").read_bytes()
    assert not (tmp_path / "one-state").exists()


def test_checkpoint_holds_no_path_and_no_time(task, tmp_path):
    _, folder = train(task, tmp_path)
    text = (folder / "checkpoint.json").read_text() + (folder / "history.csv").read_text()
    assert str(tmp_path) not in text
    assert "elapsed" not in text
    assert "seconds" not in text


def test_checkpoint_is_rebuilt_without_the_backbone_it_began_as(task, tmp_path):
    info, folder = train(task, tmp_path)
    for file in task[0].folder.iterdir():
        file.unlink()
    classifier, loaded = load_checkpoint(folder)
    assert loaded == info
    pixels, labels = torch.from_numpy(task[1][36:]), task[2][36:]
    with torch.inference_mode():
        probabilities, embedding, logits = classifier(pixels)
    assert embedding.shape == (18, info.embedding_dims)
    torch.testing.assert_close(probabilities, torch.softmax(logits / info.temperature, dim=1))
    assert (probabilities.argmax(dim=1).numpy() == labels).mean() >= info.validation[info.kept].accuracy


def test_altered_weights_are_refused(task, tmp_path):
    _, folder = train(task, tmp_path)
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_checkpoint(folder)


def test_without_epochs_the_probe_is_kept_and_answers_as_fitted(task, tmp_path):
    info, folder = train(task, tmp_path, QUICK.model_copy(update={"max_epochs": 0}))
    assert (info.kept, info.steps, info.batchnorm) == ("probe", 0, "frozen")
    assert len((folder / "history.csv").read_text().splitlines()) == 2
    classifier, _ = load_checkpoint(folder)
    network = stage_backbone(build_backbone(task[0].folder), 32)
    features = extract_features(network, task[1], classifier.normalization, rows=np.arange(36, 54), device="cpu")
    with torch.inference_mode():
        embedding = classifier(torch.from_numpy(task[1][36:]))[1]
    np.testing.assert_allclose(embedding.numpy(), features, rtol=1e-3, atol=1e-4)


def test_only_a_lead_beyond_one_standard_error_displaces_the_probe():
    labels = np.array([0, 1, 0, 1])
    right, wrong = np.eye(2)[labels], np.eye(2)[1 - labels]
    one_wrong, two_wrong = (np.concatenate([right[:k], wrong[k:]]) for k in (3, 2))

    def choose(probe: np.ndarray, finetuned: np.ndarray) -> Choice:
        return choose_weights(
            {"probe": rate_hits(probe, labels), "finetuned": rate_hits(finetuned, labels)}, plan_of(4)
        )

    assert choose(right, right).kept == "probe"
    assert choose(one_wrong, right).kept == "probe"
    verdict = choose(two_wrong, right)
    assert (verdict.kept, verdict.gained, verdict.lost, verdict.n) == ("finetuned", 2, 0, 4)
    assert choose(right, two_wrong).kept == "probe"


def test_an_empty_part_is_an_error_that_says_which(task, tmp_path):
    backbone, pixels, labels, _ = task
    with pytest.raises(ValueError, match="54 train and 0 validation"):
        train((backbone, pixels, labels, np.array(["train"] * 54)), tmp_path)


def test_the_clock_stops_a_run_far_over_its_budget_at_the_best_so_far(task, tmp_path, monkeypatch):
    monkeypatch.setattr("regraft.models.training.finetune.STOP_FACTOR", 1e-9)
    monkeypatch.setattr("regraft.models.training.finetune.STOP_LEAST_S", 0.0)
    info, folder = train(task, tmp_path)
    assert info.budget_cut
    assert info.steps == 1
    assert (info.kept, info.share) == ("probe", 0.0)
    assert load_checkpoint(folder)[1] == info


def test_a_snapshot_of_other_data_is_not_resumed(task, tmp_path):
    _, clean = train(task, tmp_path, name="clean")
    backbone, pixels, labels, parts = task
    state = tmp_path / "dirty-state"
    stale = ResumeFolder(state, "another key")
    stale.save("start", Snapshot({}, {}))
    _, folder = train((backbone, pixels, labels, parts), tmp_path, name="dirty")
    assert (folder / "model.safetensors").read_bytes() == (clean / "model.safetensors").read_bytes()


def test_vision_transformers_train_too(make_backbone, stripes, tmp_path):
    pixels, labels = stripes(18)
    parts = np.array(["train"] * 36 + ["validation"] * 18)
    info, folder = train((make_backbone(tmp_path, "test_vit.t", img_size=32), pixels, labels, parts), tmp_path)
    assert info.batchnorm == "none"
    assert json.loads((folder / "checkpoint.json").read_text())["steps"] == info.steps > 0
    assert "backbone.pos_embed" in load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("wrong", "groups", "trains"),
    [
        (0, None, False),
        (1, None, False),
        (2, None, True),
        (3, np.arange(20) // 5, False),  # of one group: told by one of four alone
        (6, np.arange(20) // 5, True),
    ],
)
def test_training_that_could_not_be_kept_is_left_out(wrong, groups, trains):
    probe = np.arange(20) >= wrong
    plan = spare_training(plan_of(40), probe, groups)
    assert (plan.steps > 0) == trains
    for gained in range(wrong + 1):  # every outcome that training could have
        tuned = np.arange(20) >= wrong - gained
        assert trains or choose_weights({"probe": probe, "finetuned": tuned}, plan_of(40), groups).kept == "probe"
    if not trains:
        assert f"errs on {wrong} of 20 validation images" in choose_weights({"probe": probe}, plan, groups).reason


def test_what_is_spared_changes_no_weight(make_backbone, stripes, tmp_path, monkeypatch):
    pixels, labels = stripes(18, noise=5.0)  # so clear that the probe of a random network answers all
    parts = np.array(["train"] * 36 + ["validation"] * 18)
    task = make_backbone(tmp_path / "store"), pixels, labels, parts
    spared, folder = train(task, tmp_path, name="spared")
    monkeypatch.setattr("regraft.models.training.finetune.spare_training", lambda plan, *_: plan)
    trained, other = train(task, tmp_path, name="trained")
    assert (spared.steps, spared.kept, trained.kept) == (0, "probe", "probe")
    assert trained.steps > 0
    assert (folder / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
