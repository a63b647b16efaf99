"""One step on every device: the same gradient in parts, memory that runs out, order, and where pixels come from."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from regraft.models.backbones.network import Normalization
from regraft.models.classifier.checkpoint import Classifier
from regraft.models.compute.budget import TrainingPlan
from regraft.models.compute.device import deterministic_kernels, full_precision
from regraft.models.compute.snapshots import ResumeFolder
from regraft.models.features.pixel_source import ResidentPixels, StreamedPixels, fits_device, open_source
from regraft.models.heads.data import TrainingData
from regraft.models.training.augmentation import AugmentConfig
from regraft.models.training.batches import PixelFeed, score_images
from regraft.models.training.loop import run_training, set_training_mode
from regraft.models.training.optimizer import LoopConfig, build_optimizer
from regraft.models.training.step import Stepper, TrainingDiverged, TrainingSetup

CPU = torch.device("cpu")
BATCH = 16
SOME = LoopConfig(rare_weight=1.0, head_lr=1e-2, backbone_lr=1e-3)


class Cramped(nn.Module):
    """A network on a device whose memory holds ``room`` images at once, and which notes how many it was asked for."""

    def __init__(self, room: int = 10**6, norm: type[nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = norm(8)
        self.deep = nn.Conv2d(8, 8, 3, stride=2)
        self.room, self.asked = room, []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.asked.append(len(images))
        seen = self.norm(self.stem(images)).relu()
        if len(images) > self.room:
            raise torch.OutOfMemoryError(f"no room for {len(images)} images")
        return self.deep(seen).relu().mean(dim=(2, 3))


@pytest.fixture
def data(stripes):
    pixels, labels = stripes(16)
    # A class less: weights of rare classes differ from batch to batch, and from part to part.
    train = np.array([row for row in range(40) if labels[row] or row % 2])
    return TrainingData(pixels, labels, train, np.arange(40, 48))


def prepare(data, network, *, batch=BATCH, steps=4, config=SOME):
    classifier = Classifier(network, Normalization((0.5,) * 3, (0.25,) * 3), 8, 3)
    torch.nn.init.normal_(classifier.head.weight, generator=torch.Generator().manual_seed(1))
    optimizer = build_optimizer(classifier, 0, config)
    plan = TrainingPlan(steps, -(-len(data.train) // batch), 0, 3, batch, "a test")
    setup = TrainingSetup(PixelFeed(classifier, data, AugmentConfig(), 0), data, plan, config, seed=0)
    set_training_mode(classifier, batch)
    return classifier, setup, Stepper(classifier, optimizer, setup)


def walk(data, network, *, micro=None, **kinds):
    classifier, setup, stepper = prepare(data, network, **kinds)
    stepper.micro = micro or stepper.micro
    for step in range(setup.plan.steps):
        stepper.take(step)
    return classifier, stepper


def assert_same_weights(one, two):
    """Weights as far apart as sums in another order are; AdamW divides by small roots, so not to the last bit."""
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], value, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("rare_weight", [0.0, 1.0])
@pytest.mark.parametrize("micro", [BATCH // 2, BATCH // 4, 5])
def test_parts_of_a_batch_move_the_weights_as_the_whole_batch_does(data, micro, rare_weight):
    config = SOME.model_copy(update={"rare_weight": rare_weight})
    whole, stepper = walk(data, Cramped(), config=config)
    parted, parts = walk(data, Cramped(), micro=micro, config=config)
    assert max(parted.backbone.asked) <= micro < max(whole.backbone.asked) == BATCH
    assert parts.settle() == pytest.approx(stepper.settle(), rel=1e-5)
    assert_same_weights(whole, parted)


@pytest.mark.parametrize(("room", "micro"), [(8, 8), (3, 2), (1, 1)])
def test_memory_that_runs_out_halves_the_parts_and_changes_nothing_else(data, room, micro):
    whole, _ = walk(data, Cramped())
    survived, stepper = walk(data, Cramped(room))
    assert stepper.micro == micro
    tried = [BATCH // 2**power for power in range(5) if BATCH // 2**power > room]
    assert survived.backbone.asked[: len(tried)] == tried  # each size is tried once, then never again
    assert max(survived.backbone.asked[len(tried) :]) <= room
    assert_same_weights(whole, survived)


def test_the_gradient_of_a_part_is_forgotten_when_the_next_one_does_not_fit(data):
    class Filling(Cramped):
        def forward(self, images):
            if len(self.asked) == 1:  # the second part: the gradient of the first is there
                self.asked.append(len(images))
                raise torch.OutOfMemoryError("full")
            return super().forward(images)

    whole, _ = walk(data, Cramped())
    survived, _ = walk(data, Filling(), micro=BATCH // 2)
    assert survived.backbone.asked[:6] == [8, 8, 4, 4, 4, 4]
    assert_same_weights(whole, survived)


def test_one_image_that_does_not_fit_is_an_error_that_says_what_to_do(data):
    with pytest.raises(torch.OutOfMemoryError) as told:
        walk(data, Cramped(0))
    assert "smaller backbone" in told.value.__notes__[0]


def test_batchnorm_that_trains_sees_the_parts(data):
    whole, _ = walk(data, Cramped(), batch=32)
    parted, _ = walk(data, Cramped(), batch=32, micro=16)
    assert not torch.allclose(whole.backbone.norm.running_var, parted.backbone.norm.running_var, rtol=1e-4)


def test_an_epoch_has_every_training_image_once_in_an_order_that_is_dealt_once(data, monkeypatch):
    _, setup, stepper = prepare(data, Cramped(), steps=6)
    seen, dealt, load, deal = [], [], setup.feed.load_rows, np.random.default_rng
    monkeypatch.setattr(setup.feed, "load_rows", lambda rows, *rest: (seen.append(rows), load(rows, *rest))[1])
    monkeypatch.setattr(np.random, "default_rng", lambda seed: (dealt.append(seed), deal(seed))[1])
    for step in range(6):
        stepper.take(step)
    assert setup.plan.steps_per_epoch == 3
    epochs = [np.concatenate(seen[:3]), np.concatenate(seen[3:])]
    for epoch in epochs:
        assert Counter(epoch.tolist()) == Counter(data.train.tolist())
    assert not np.array_equal(*epochs)
    assert dealt == [[0, 0], [0, 1]]


def test_a_step_hangs_on_its_number_alone(data):
    one, _ = walk(data, Cramped(), steps=5)
    two, setup, first = prepare(data, Cramped(), steps=5)
    first.take(0)
    first.take(1)
    again = Stepper(two, first._optimizer, setup)  # as after a restart, in the middle of an epoch
    for step in (2, 3, 4):
        again.take(step)
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())


def test_divergence_is_reported_with_its_epoch_and_the_weights_stay(data, tmp_path):
    classifier, setup, _ = prepare(data, Cramped(), steps=6)
    load = setup.feed.load_rows

    def spoil(rows, step, following=None):
        if step == 4:
            with torch.no_grad():
                classifier.head.bias[0] = torch.nan
        return load(rows, step, following)

    setup.feed.load_rows = spoil
    with pytest.raises(TrainingDiverged, match=r"loss nan .*step 5 of 6, in epoch 2, learning rate"):
        run_training(classifier, setup, ResumeFolder(tmp_path, "k"), stop_s=60)
    assert bool(torch.isfinite(classifier.backbone.stem.weight).all())


def test_what_a_device_has_not_told_yet_is_looked_at_when_it_is_settled(data):
    _, stepper = walk(data, Cramped(), steps=3)
    for place, figure in ((1, torch.tensor(torch.nan)), (2, torch.tensor(torch.inf))):
        broken = list(stepper._unsettled)
        broken[1] = tuple(figure if at == place else each for at, each in enumerate(broken[1]))
        stepper._unsettled, before = broken, stepper._unsettled
        with pytest.raises(TrainingDiverged, match="step 2 of 3, in epoch 1"):
            stepper.settle()
        stepper._unsettled = before
    assert len(stepper.settle()) == 3


def test_losses_are_settled_once(data):
    _, stepper = walk(data, Cramped(), steps=3)
    assert len(stepper.settle()) == 3
    assert stepper.settle() == []


def test_both_sources_give_the_same_bytes_whatever_was_announced(data):
    rng = np.random.default_rng(0)
    rows = np.concatenate([data.train, data.validation])
    ahead, plain = StreamedPixels(data.pixels, CPU, ahead=True), StreamedPixels(data.pixels, CPU)
    resident, batches = ResidentPixels(data.pixels, rows, CPU), [rng.choice(rows, 7) for _ in range(6)]
    # The last announcement is wrong, as after a restart; and after the third batch there is none.
    following = [batches[1], batches[2], None, batches[4], batches[0], None]
    for batch, later in zip(batches, following, strict=True):
        wanted = torch.from_numpy(data.pixels[batch])
        for source in (ahead, plain, resident):
            got = source.take(batch, later)
            assert got.dtype == torch.uint8
            assert torch.equal(got, wanted)


def test_an_image_that_is_not_on_the_device_is_no_other_image(data):
    source = ResidentPixels(data.pixels, data.train, CPU)
    with pytest.raises(IndexError, match="image 40 is not among"):
        source.take(np.array([1, 40]))


def test_an_image_that_cannot_be_read_ahead_is_an_error_of_its_batch(data):
    source = StreamedPixels(data.pixels, CPU, ahead=True)
    source.take(data.train[:2], np.array([10**6]))
    with pytest.raises(IndexError):
        source.take(np.array([10**6]))


def test_images_lie_on_a_device_only_where_they_leave_room_for_the_rest(data):
    assert fits_device(400, 1000)
    assert not fits_device(401, 1000)
    assert isinstance(open_source(data.pixels, data.train, CPU), StreamedPixels)


def test_held_out_images_are_scored_in_float32_without_tf32_and_all_is_as_before_afterwards(data):
    seen = []

    class Spy(Cramped):
        def forward(self, images):
            answer = super().forward(images)
            matmul, convolution = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
            seen.append((answer.dtype, matmul, convolution, torch.is_autocast_enabled("cpu")))
            return answer

    before = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
    classifier, _, _ = prepare(data, Spy())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = score_images(classifier, data, data.validation, 3)
        assert torch.is_autocast_enabled("cpu")
    assert set(seen) == {(torch.float32, "ieee", "ieee", False)}
    assert logits.shape == (len(data.validation), 3)
    with pytest.raises(ZeroDivisionError), full_precision(CPU):
        raise ZeroDivisionError
    assert (torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision) == before


def test_deterministic_kernels_fill_no_memory_for_nothing_and_leave_torch_as_it_was():
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    with deterministic_kernels():
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
    now = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    assert now == before == (False, True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_device_is_not_waited_for_between_two_settlings(data):
    device = torch.device("cuda")
    classifier, setup, _ = prepare(data, Cramped().to(device), steps=8)
    classifier.to(device)
    feed = PixelFeed(classifier, data, AugmentConfig(), 0)
    setup = TrainingSetup(feed, data, setup.plan, SOME, 0)
    stepper = Stepper(classifier, build_optimizer(classifier, 0, SOME), setup)
    stepper.take(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(1, 8):
            stepper.take(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(np.isfinite(stepper.settle()))
