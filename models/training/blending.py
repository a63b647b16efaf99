"""What is shipped of fine-tuning: the mean of its last epochs, between the probe's weights and those (WiSE-FT).

No epoch is looked for on the validation images: the best of many looks is best by chance too, and the same images judge
afterwards whether fine-tuning is kept. Decision 40.
"""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from regraft.models.statistics.merits import measure_lead

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
