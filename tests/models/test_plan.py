import math

import numpy as np
import pytest
import torch

from regraft.models.backbones.network import build_backbone
from regraft.models.compute.budget import (
    STEP_OVERHEAD_S,
    ImageCounts,
    Speed,
    TrainingLimits,
    plan_training,
    scale_rate,
)
from regraft.models.compute.cost import GroupWork, count_work, group_by_depth
from regraft.models.training.augmentation import AugmentConfig, augment_batch

WORK = [GroupWork(1.0, 0.0)] * 4
SPEED = Speed(100.0, 1.0)  # 10 ms a group forward, 30 ms trained


def plan(budget_s, train=100, validation=0, adapted=0, batch_size=10, max_epochs=30):
    images = ImageCounts(train, validation, adapted)
    return plan_training(WORK, SPEED, images, TrainingLimits(budget_s, batch_size, min_epochs=3, max_epochs=max_epochs))


def epoch_s(frozen):
    return 100 * (0.01 * frozen + 0.03 * (4 - frozen)) + 10 * STEP_OVERHEAD_S


FEATURES_S = 100 * 0.04


@pytest.mark.parametrize("frozen", [0, 1, 3])
def test_the_smallest_frozen_prefix_that_affords_the_epochs_is_taken(frozen):
    enough = FEATURES_S + 3 * epoch_s(frozen)
    assert (plan(enough + 0.01).frozen_groups, plan(enough + 0.01).epochs) == (frozen, 3)
    assert plan(enough - 0.01).frozen_groups == min(frozen + 1, 3)


def test_with_a_poor_budget_the_last_group_trains_for_what_there_is():
    found = plan(FEATURES_S + 2.5 * epoch_s(3))
    assert (found.frozen_groups, found.epochs, found.steps) == (3, 2, 20)


def test_no_epoch_fits_and_the_plan_says_so():
    found = plan(FEATURES_S + 0.5 * epoch_s(3))
    assert found.steps == 0
    assert "the linear probe stands" in found.reason


def test_epochs_are_capped_and_validation_and_adaptation_cost():
    assert plan(1e6).epochs == 30
    assert plan(30, validation=100).epochs < plan(30).epochs
    assert plan(30, adapted=200).epochs <= plan(30).epochs
    assert plan(1e6, max_epochs=0).steps == 0


def test_a_batch_is_never_larger_than_the_training_part():
    found = plan(1e6, train=7, batch_size=32)
    assert (found.batch_size, found.steps_per_epoch) == (7, 1)


def test_rates_warm_up_then_follow_half_a_cosine():
    rates = [scale_rate(step, 100, 0.1) for step in range(100)]
    assert rates[0] == 0.1
    assert rates[9] == rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.01
    assert scale_rate(0, 1, 0.1) == 1


@pytest.mark.parametrize("name", ["test_resnet.tiny", "test_vit.tiny"])
def test_depth_groups_have_no_gaps_and_grow_towards_the_output(name, make_backbone, tmp_path):
    network = build_backbone(make_backbone(tmp_path, name, **({"img_size": 32} if "vit" in name else {})).folder)
    groups = group_by_depth(network)
    assert groups.keys() == dict(network.named_parameters()).keys()
    assert set(groups.values()) == set(range(max(groups.values()) + 1))
    assert groups[next(iter(groups))] == 0
    assert groups[list(groups)[-1]] == max(groups.values())


def test_work_is_counted_by_hand_for_a_small_network():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 64, 5)
    )
    work = count_work(network.eval(), group_by_depth(network), 8)
    assert [group.gflops * 1e9 for group in work] == pytest.approx([2 * 64 * 4 * 27, 2 * 256 * 5])
    conv_relu_flatten = 3 * 4 * 64 * 4
    assert [group.gigabytes * 1e9 for group in work] == pytest.approx([conv_relu_flatten, 20])


def draw(count=4, size=16):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8))


def test_augmentation_is_decided_by_its_generator_alone():
    pixels = draw()
    one = augment_batch(pixels, AugmentConfig(), torch.Generator().manual_seed(1))
    torch.manual_seed(99)
    assert torch.equal(one, augment_batch(pixels, AugmentConfig(), torch.Generator().manual_seed(1)))
    assert not torch.equal(one, augment_batch(pixels, AugmentConfig(), torch.Generator().manual_seed(2)))
    assert (one.shape, one.dtype) == (pixels.shape, torch.uint8)


def test_nothing_allowed_changes_nothing():
    still = AugmentConfig(flip_horizontal=False, shift_share=0, brightness=0, contrast=0)
    assert torch.equal(augment_batch(draw(), still, torch.Generator()), draw())


def test_images_are_flipped_whole_and_only_where_allowed():
    only_flip = AugmentConfig(shift_share=0, brightness=0, contrast=0)
    pixels = draw(32)
    moved = augment_batch(pixels, only_flip, torch.Generator().manual_seed(0))
    flipped = torch.tensor([torch.equal(a, b.flip(1)) for a, b in zip(moved, pixels, strict=True)])
    same = torch.tensor([torch.equal(a, b) for a, b in zip(moved, pixels, strict=True)])
    assert bool((flipped ^ same).all())
    assert 8 < int(flipped.sum()) < 24


def test_shifts_reflect_the_border():
    shifts = AugmentConfig(flip_horizontal=False, shift_share=0.25, brightness=0, contrast=0)
    ramp = torch.arange(16, dtype=torch.uint8).view(1, 1, 16, 1).expand(64, 16, 16, 3)
    moved = augment_batch(ramp, shifts, torch.Generator().manual_seed(0))
    assert {int(image[0, 8, 0]) for image in moved} == set(range(4, 13))
    assert int(moved.min()) == 0
    steps = (moved[:, :, 1:].int() - moved[:, :, :-1].int()).abs()
    assert int(steps.max()) == 1  # a mirror, not a jump


def test_brightness_moves_the_mean_within_its_reach():
    bright = AugmentConfig(flip_horizontal=False, shift_share=0, brightness=0.2, contrast=0)
    grey = torch.full((200, 4, 4, 3), 100, dtype=torch.uint8)
    means = augment_batch(grey, bright, torch.Generator().manual_seed(0)).float().mean(dim=(1, 2, 3))
    assert 80 <= float(means.min()) < 84
    assert 116 < float(means.max()) <= 120
    assert math.isclose(float(means.mean()), 100, abs_tol=2.5)
