"""What is shipped of fine-tuning: the mean of the last epochs, and how much of it."""

import numpy as np
import pytest
import torch

from regraft.models.training.blending import add_to_mean, blend_states, choose_share, is_averaged


def state(*values: float, seen: int = 0) -> dict[str, torch.Tensor]:
    return {"weight": torch.tensor(values), "num_batches_tracked": torch.tensor(seen)}


def test_the_mean_is_that_of_all_states_and_counters_are_the_latest() -> None:
    mean: dict[str, torch.Tensor] = {}
    states = [state(1.0, 8.0, seen=3), state(4.0, 0.0, seen=6), state(7.0, 1.0, seen=9)]
    for count, each in enumerate(states):
        mean = add_to_mean(mean, each, count)
    assert mean["weight"].tolist() == [4.0, 3.0]
    assert mean["num_batches_tracked"] == 9


@pytest.mark.parametrize(("epochs", "last"), [(1, 1), (2, 1), (3, 1), (12, 4), (30, 10)])
def test_the_last_third_is_averaged_and_one_epoch_at_least(epochs: int, last: int) -> None:
    assert [epoch for epoch in range(1, epochs + 1) if is_averaged(epoch, epochs)] == list(
        range(epochs - last + 1, epochs + 1)
    )


def test_a_blend_lies_between_and_what_did_not_move_stays_to_the_bit() -> None:
    start, end = state(0.1, 1.0), state(0.1, 3.0, seen=5)
    half, whole = blend_states(start, end, 0.5), blend_states(start, end, 1.0)
    assert half["weight"].tolist() == [start["weight"][0].item(), 2.0]
    assert torch.equal(whole["weight"], end["weight"]) and half["num_batches_tracked"] == 5


def test_the_smaller_share_is_taken_in_doubt_and_the_whole_where_it_is_clearly_better() -> None:
    rng = np.random.default_rng(0)
    half = rng.uniform(0.2, 0.4, 60)
    assert choose_share({0.5: half, 1.0: half + rng.normal(0, 0.2, 60)}) == 0.5
    assert choose_share({0.5: half, 1.0: half - 0.1 + rng.normal(0, 0.05, 60)}) == 1.0
    ahead = np.repeat([-0.3, 0.1, 0.1], 20)  # of one group alone
    assert choose_share({0.5: half, 1.0: half + ahead}) == 1.0
    assert choose_share({0.5: half, 1.0: half + ahead}, np.repeat([0, 1, 2], 20)) == 0.5
