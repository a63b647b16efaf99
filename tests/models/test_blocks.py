"""Staging and cutting a backbone, and training on kept activations; real architectures, random weights."""

import numpy as np
import pytest
import torch

from regraft.models.backbones.intermediate_features import StagedBackbone, StageStatistics, list_widths, stage_backbone
from regraft.models.backbones.network import build_architecture
from regraft.models.backbones.split import cut_backbone
from regraft.models.classifier.checkpoint import Classifier
from regraft.models.compute.budget import TrainingPlan
from regraft.models.compute.cost import group_by_depth
from regraft.models.compute.device import Compute, place_module
from regraft.models.compute.snapshots import ResumeFolder
from regraft.models.features.cache import FeatureStore, FrozenBackbone
from regraft.models.heads.data import TrainingData
from regraft.models.training.augmentation import AugmentConfig
from regraft.models.training.batches import ActivationFeed, PixelFeed
from regraft.models.training.loop import run_training
from regraft.models.training.optimizer import LoopConfig
from regraft.models.training.step import TrainingSetup

ARCHITECTURES = ("test_resnet", "test_vit", "test_convnext", "test_efficientnet")
STILL = AugmentConfig(flip_horizontal=False, shift_share=0, brightness=0, contrast=0)


def build(name):
    torch.manual_seed(0)
    arguments = {"img_size": 64, "dynamic_img_size": False} if "vit" in name else {}
    network = build_architecture({"architecture": name, "model_args": arguments}).eval()
    return place_module(network, torch.device("cpu"))


def images(count=3):
    drawn = torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return drawn.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_staged_network_says_the_same_and_more_under_the_same_names(name):
    network = build(name)
    with torch.no_grad():
        expected = network(images())
        staged = stage_backbone(network, 64)
        found = staged(images())
    assert isinstance(staged, StagedBackbone)
    assert torch.equal(found[:, : expected.shape[1]], expected)
    assert found.shape[1] == sum(list_widths(staged, 64)) > expected.shape[1]
    assert staged.state_dict().keys() == network.state_dict().keys()
    assert group_by_depth(staged) == group_by_depth(network)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_both_halves_together_are_the_whole_at_every_depth(name):
    staged = stage_backbone(build(name), 64)
    with torch.no_grad():
        whole = staged(images())
        for frozen in range(1, max(group_by_depth(staged).values()) + 1):
            cut = cut_backbone(staged, frozen, 64)
            rows = cut.prefix(images())
            assert rows.shape == (3, cut.values)
            assert cut.frozen <= frozen
            torch.testing.assert_close(cut.suffix(rows), whole)
    assert cut_backbone(staged, 0, 64) is None


def test_gradients_behind_the_cut_are_those_of_the_whole():
    staged = stage_backbone(build("test_resnet"), 64)
    frozen = max(group_by_depth(staged).values())
    cut = cut_backbone(staged, frozen, 64)
    late = [name for name, group in group_by_depth(staged).items() if group >= cut.frozen]
    grads = []
    for answer in (staged(images()), cut.suffix(cut.prefix(images()).detach())):
        staged.zero_grad()
        answer.square().sum().backward()
        grads.append([dict(staged.named_parameters())[name].grad.clone() for name in late])
    assert late
    for whole, half in zip(*grads, strict=True):
        torch.testing.assert_close(whole, half, rtol=1e-4, atol=1e-4)


def test_statistics_are_mean_and_deviation_over_the_places():
    maps = torch.randn(2, 5, 4, 4)
    found = StageStatistics(channels_first=True)(maps)
    torch.testing.assert_close(found[:, :5], maps.mean((2, 3)))
    torch.testing.assert_close(found[:, 5:], maps.flatten(2).std(2, correction=0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(StageStatistics(channels_first=False)(maps.permute(0, 2, 3, 1)), found)
    torch.testing.assert_close(StageStatistics(channels_first=False)(maps.flatten(2).transpose(1, 2)), found)


def test_what_cannot_be_traced_is_used_as_it_is():
    class Moody(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 4, 3)

        def forward(self, images):
            answer = self.layer(images).mean((2, 3))
            return answer if answer.sum() > 0 else -answer

    network = Moody().eval()
    assert stage_backbone(network, 64) is network
    assert list_widths(network, 64) == (4,)
    assert cut_backbone(network, 1, 64) is None


@pytest.fixture
def problem(stripes):
    pixels, labels = stripes(16)
    return TrainingData(pixels, labels, np.arange(32), np.arange(32, 48))


def trained(problem, tmp_path, *, kept, views=2):
    torch.manual_seed(0)
    network = stage_backbone(build_architecture({"architecture": "test_resnet"}).eval(), 32)
    normalization = type("N", (), {"mean": (0.5,) * 3, "std": (0.25,) * 3})
    classifier = place_module(Classifier(network, normalization, sum(list_widths(network, 32)), 3), torch.device("cpu"))
    frozen = max(group_by_depth(network).values())
    plan = TrainingPlan(8, 4, frozen, frozen + 1, 8, "a test", views if kept else 0)
    feed = PixelFeed(classifier, problem, STILL, 0)
    if kept:
        cut = cut_backbone(network, frozen, 32)
        feed = ActivationFeed(classifier, cut, problem, STILL, plan=plan, seed=0, folder=tmp_path / "kept")
    resume = ResumeFolder(tmp_path / f"state-{kept}", "k")
    setup = TrainingSetup(feed, problem, plan, LoopConfig(augment=STILL), seed=0)
    run = run_training(classifier, setup, resume, stop_s=60)
    return classifier, run


def test_training_on_kept_activations_is_training_on_the_pixels(problem, tmp_path):
    one, first = trained(problem, tmp_path, kept=False)
    two, second = trained(problem, tmp_path, kept=True)
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["held.npy", "view-0.npy", "view-1.npy"]
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], value, rtol=0.02, atol=0.01, msg=name)  # half precision
    for a, b in zip(first.history, second.history, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=0.01)


def test_views_differ_and_a_lost_view_comes_back_bit_for_bit(problem, tmp_path):
    network = stage_backbone(build_architecture({"architecture": "test_resnet"}).eval(), 32)
    normalization = type("N", (), {"mean": (0.5,) * 3, "std": (0.25,) * 3})
    classifier = Classifier(network, normalization, sum(list_widths(network, 32)), 3)
    cut = cut_backbone(network, 2, 32)

    def feed():
        plan = TrainingPlan(8, 4, 2, 3, 8, "a test", views=2)
        return ActivationFeed(classifier, cut, problem, AugmentConfig(), plan=plan, seed=0, folder=tmp_path / "kept")

    feed().begin_epoch(0)
    feed().begin_epoch(1)
    first, second = ((tmp_path / "kept" / f"view-{number}.npy").read_bytes() for number in (0, 1))
    assert first != second
    (tmp_path / "kept" / "view-1.npy").unlink()
    feed().begin_epoch(3)  # the third epoch after it looks at the second view again
    assert (tmp_path / "kept" / "view-1.npy").read_bytes() == second


def test_features_are_computed_once_and_a_stale_or_damaged_entry_never_answers(make_backbone, stripes, tmp_path):
    pixels, _ = stripes(8)
    backbone, store = make_backbone(tmp_path / "b"), FeatureStore(tmp_path / "features")

    def ask(images, **settings):
        compute = Compute(device="cpu")
        frozen = FrozenBackbone(backbone, pixels, adapt_images=0, store=store, compute=compute, **settings)
        return frozen.embed(images), "network" in frozen.__dict__

    first, computed = ask(pixels)
    again, computed_again = ask(pixels)
    assert computed
    assert not computed_again
    assert first.values.tobytes() == again.values.tobytes()
    assert first.widths == again.widths
    changed = pixels.copy()
    changed[0, 0, 0, 0] ^= 1
    assert ask(changed)[1]
    assert ask(pixels, shares=(0.5,))[1]
    for entry in (tmp_path / "features").iterdir():
        data = bytearray((entry / "features.npy").read_bytes())
        data[-1] ^= 1
        (entry / "features.npy").write_bytes(data)
    healed, computed = ask(pixels)
    assert computed
    assert healed.values.tobytes() == first.values.tobytes()
