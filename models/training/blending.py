"""What is shipped of fine-tuning: the mean of its last epochs, between the probe's weights and those (WiSE-FT).

No epoch is looked for on the validation images: the best of many looks is best by chance too, and the same images judge
afterwards whether fine-tuning is kept. Decision 40.
"""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from regraft.models.classifier.checkpoint import Classifier
from regraft.models.compute.budget import TrainingPlan
from regraft.models.features.linear_probe import list_log_losses
from regraft.models.heads.data import TrainingData
from regraft.models.statistics.merits import measure_lead
from regraft.models.training.batches import score_images

AVERAGED = 1 / 3
"""Share of the epochs, the last ones, over which the mean is taken: the rate has fallen to a quarter by then."""
SHARES = (0.5, 1.0)
"""Of the fine-tuned weights in those that are tried, the simplest first."""


def is_averaged(epoch: int, epochs: int) -> bool:
    """Say whether ``epoch``, counted from 1, is among the last of ``epochs`` that the mean is taken over."""
    return epoch > epochs - max(1, round(AVERAGED * epochs))


def add_to_mean(mean: Mapping[str, Tensor], state: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Return the mean of ``count`` states and one more; of what is counted, not measured, the latest."""
    if not count:
        return dict(state)
    return {
        name: mean[name] + (value - mean[name]) / (count + 1) if value.is_floating_point() else value
        for name, value in state.items()
    }


def blend_states(start: Mapping[str, Tensor], end: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return the weights and statistics at ``share`` of the way from ``start`` to ``end``; at 1 ``end`` to the bit.

    Both must have one origin: the head is the probe's from the first step on, so that the way between them is short.
    Source: Wortsman et al. 2022, Robust fine-tuning of zero-shot models.
    """
    if share == 1:
        return dict(end)
    return {
        name: value + share * (end[name] - value) if value.is_floating_point() else end[name]
        for name, value in start.items()
    }


def choose_share(losses: Mapping[float, np.ndarray], groups: np.ndarray | None = None) -> float:
    """Return which of ``SHARES`` is taken, by each validation image's log loss ``(N,)`` in nats.

    The smaller share, unless a larger one is ahead by more than one standard error, image by image or by group.
    """
    chosen = min(losses)
    for share in sorted(losses)[1:]:
        lead = measure_lead(-losses[chosen], -losses[share], groups)
        if lead.value > lead.error:
            chosen = share
    return chosen


def describe_share(share: float) -> str:
    """Return how far the weights are moved from the probe's network, as the end of a sentence."""
    return "" if share == 1 else f", with its weights at {share:.0%} of the way from the probe's network"


def load_blend(
    classifier: Classifier, data: TrainingData, plan: TrainingPlan, start: dict[str, Tensor], end: dict[str, Tensor]
) -> tuple[float, np.ndarray]:
    """Load the better blend of ``start`` and ``end``; return its share and logits ``(M, K)`` of the validation rows."""
    labels, logits, states = data.labels[data.validation], {}, {}
    for share in SHARES:
        states[share] = blend_states(start, end, share)
        classifier.load_state_dict(states[share])
        logits[share] = score_images(classifier, data, data.validation, plan.batch_size)
    losses = {share: list_log_losses(each.astype(np.float64), labels) for share, each in logits.items()}
    chosen = choose_share(losses, data.take_groups(data.validation))
    classifier.load_state_dict(states[chosen])
    return chosen, logits[chosen]
