"""One step of training, on every device: order, rates, loss, gradient, and what is done when memory runs out.

How many steps, and what happens between epochs, is in ``loop.py``; where a batch comes from in ``batches.py``.
"""

import logging
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from regraft.models.classifier.checkpoint import Classifier
from regraft.models.compute.budget import TrainingPlan, scale_rate
from regraft.models.compute.device import mixed_precision, send_array
from regraft.models.heads.data import TrainingData
from regraft.models.statistics.class_weights import weigh_classes
from regraft.models.training.batches import Feed, seed_of
from regraft.models.training.optimizer import LoopConfig

logger = logging.getLogger(__name__)


class TrainingDiverged(RuntimeError):  # noqa: N818
    """The loss is not finite any more."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class TrainingSetup:
    """What all steps of a run share.

    Attributes:
        feed: Where batches come from.
        data: Images, labels and parts.
        plan: How deep and how long.
        config: How.
        seed: Of order, augmentation and dropout.
    """

    feed: Feed
    data: TrainingData
    plan: TrainingPlan
    config: LoopConfig
    seed: int


class Stepper:
    """Takes the steps of a run; a step hangs on its number alone, so a resumed run goes on as if it had not stopped.

    On CUDA the host does not wait for the device between two calls of ``settle``: losses stay there until then. On a
    CPU, where nothing is gained by that, each is looked at before the weights are moved by it.

    When the device's memory does not hold a batch, it goes through the network in ``micro`` images at a time, half as
    many as before until they fit, and their gradients add up to the same: each part weighs in the loss what its labels
    weigh in the batch. Two things are then not the same. BatchNorm in train mode takes its statistics from a part
    instead of the batch, and follows with one small step for each part (and for each try that ran out of memory);
    dropout and stochastic depth draw other masks. BatchNorm that keeps its statistics, and networks without it, are
    trained as by the whole batch.

    Attributes:
        micro: Images that go through the network at once.
    """

    def __init__(self, classifier: Classifier, optimizer: torch.optim.AdamW, setup: TrainingSetup) -> None:
        """Train ``classifier``, on its device and in its mode, with an optimiser made by ``build_optimizer``."""
        self.micro = setup.plan.batch_size
        self._classifier, self._optimizer, self._setup = classifier, optimizer, setup
        self._device = classifier.head.weight.device
        self._trained = [p for p in classifier.parameters() if p.requires_grad]
        data, config = setup.data, setup.config
        weights = weigh_classes(data.labels[data.train], classifier.head.out_features, config.rare_weight)
        self._weights = None if weights is None else send_array(weights, self._device)
        self._epoch, self._order, self._labels = -1, np.empty(0, np.int64), torch.empty(0)
        self._unsettled: list[tuple[int, Tensor, Tensor]] = []

    def take(self, step: int) -> None:
        """Train on the batch of ``step``, from 0.

        Raises:
            TrainingDiverged: On a CPU, if loss or gradient are not finite; the weights are then as before the step.
            OutOfMemoryError: If not even one image at a time fits.
        """
        plan, config = self._setup.plan, self._setup.config
        epoch, place = divmod(step, plan.steps_per_epoch)
        self._open_epoch(epoch)
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * scale_rate(step, plan.steps, config.warmup_share)
        loss = self._descend(step, place * plan.batch_size)
        norm = torch.nn.utils.clip_grad_norm_(self._trained, config.clip_norm)
        self._unsettled.append((step, loss, norm))
        if self._device.type != "cuda":
            self._check([(step, float(loss), float(norm))])
        self._optimizer.step()

    def settle(self) -> list[float]:
        """Wait for the device; return the losses of the steps since the last time, in nats.

        Raises:
            TrainingDiverged: If one of them, or a gradient, is not finite; the weights are then of no use.
        """
        if not self._unsettled:
            return []
        steps, losses, norms = zip(*self._unsettled, strict=True)
        self._unsettled = []
        figures = torch.stack([torch.stack(losses), torch.stack(norms)]).tolist()
        self._check(list(zip(steps, *figures, strict=True)))
        return figures[0]

    def _open_epoch(self, epoch: int) -> None:
        """Deal the training rows in the order of this epoch, once; their labels go to the device together."""
        if epoch != self._epoch:
            data = self._setup.data
            self._epoch = epoch
            self._order = np.random.default_rng([self._setup.seed, epoch]).permutation(data.train)
            self._labels = send_array(data.labels[self._order], self._device)

    def _descend(self, step: int, first: int) -> Tensor:
        """Leave the gradient of the batch that begins at ``first`` of the order; return its loss."""
        while True:
            torch.manual_seed(seed_of(self._setup.seed, 1, step))  # dropout and stochastic depth
            self._optimizer.zero_grad(set_to_none=True)
            try:
                return self._accumulate(step, first)
            except torch.OutOfMemoryError as exc:
                if self.micro == 1:
                    exc.add_note("Not even one image at a time fits: choose a smaller backbone, or freeze more of it.")
                    raise
            # Outside of the handler: the error's frames hold what has to be freed.
            self._halve(step)

    def _halve(self, step: int) -> None:
        """Let half as many images through the network at once from now on."""
        self.micro = -(-self.micro // 2)
        self._optimizer.zero_grad(set_to_none=True)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        logger.warning("out of device memory at step=%d: from now on micro_batch=%d", step + 1, self.micro)

    def _accumulate(self, step: int, first: int) -> Tensor:
        size, feed, classifier = self._setup.plan.batch_size, self._setup.feed, self._classifier
        rows, following = self._order[first : first + size], self._order[first + size : first + 2 * size]
        batch = feed.load_rows(rows, step, following if len(following) else None)
        labels = self._labels[first : first + size]
        counts = torch.ones_like(labels, dtype=torch.float32) if self._weights is None else self._weights[labels]
        total, loss = counts.sum(), torch.zeros((), device=self._device)
        parts = -(-len(rows) // self.micro)
        pieces = (torch.tensor_split(each, parts) for each in (batch, labels, counts))
        for images, targets, weights in zip(*pieces, strict=True):
            with mixed_precision(self._device):
                logits = classifier.score(feed.embed(images))
                mean = functional.cross_entropy(
                    logits.float(),
                    targets,
                    weight=self._weights,
                    label_smoothing=self._setup.config.label_smoothing,
                )
            # The mean over a part, times what the part weighs: 1, to the last bit, where it is the whole batch.
            share = mean * (weights.sum() / total)
            share.backward()
            loss = loss + share.detach()
        return loss

    def _check(self, figures: list[tuple[int, float, float]]) -> None:
        """Raise ``TrainingDiverged`` for the first of (step, loss, gradient norm) that is not finite."""
        plan, config = self._setup.plan, self._setup.config
        for step, loss, norm in figures:
            if not (math.isfinite(loss) and math.isfinite(norm)):
                scale = scale_rate(step, plan.steps, config.warmup_share)
                first, head = (self._optimizer.param_groups[place]["peak"] * scale for place in (0, -1))
                raise TrainingDiverged(
                    f"loss {loss} and gradient norm {norm} at step {step + 1} of {plan.steps}, in epoch "
                    f"{step // plan.steps_per_epoch + 1}, learning rate {head:.2g} (head) and {first:.2g} (first "
                    "trained group). Lower finetune.loop.backbone_lr and head_lr, by ten say, and look for broken "
                    "images or weights."
                )
