"""What every resumable pretraining is made of: rows and seeds of a step, the rate, the running average, snapshots."""

import json
import math
from collections.abc import Iterable

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from regraft.models.compute.device import DeviceName
from regraft.models.compute.snapshots import Snapshot
from regraft.models.features.adabn import list_batchnorms


class LearningConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What every pretraining is told besides its recipe."""

    seed: int = Field(0, ge=0)
    """Draws initial weights, batches and what is seen in a step."""
    threads: int = Field(1, ge=1)
    """CPU threads; part of the recipe, because sums are split by thread."""
    device: DeviceName = "cpu"
    """Where to train."""
    save_every_s: float = Field(60.0, gt=0)
    """Seconds between snapshots; not part of what is learnt."""

    def describe(self) -> str:
        """Return everything that the weights depend on as one line."""
        return json.dumps(self.model_dump(exclude={"save_every_s"}), sort_keys=True)


class PretrainingDiverged(RuntimeError):  # noqa: N818
    """The loss of the pretraining is not finite any more."""

    exit_code = 1


def list_batch_rows(count: int, batch_size: int, step: int, seed: int) -> np.ndarray:
    """Return the rows of batch ``step``: consecutive pieces of one shuffle per pass over the samples."""
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    passes = places // count
    rows = np.empty(batch_size, np.int64)
    for number in np.unique(passes):
        order = np.random.default_rng([seed, int(number)]).permutation(count)
        rows[passes == number] = order[places[passes == number] % count]
    return np.sort(rows)


def seed_step(seed: int, step: int, device: torch.device) -> torch.Generator:
    """Return the generator of one step's views; no two steps share one."""
    return torch.Generator(device=device).manual_seed(seed * 1_000_003 + step)


def schedule_rate(step: int, steps: int) -> float:
    """Return the share of the peak rate: a linear rise over a twentieth of the steps, then half a cosine."""
    rise = max(1, steps // 20)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def check_loss(loss: Tensor, step: int, steps: int, rate: float) -> None:
    """Stop a run whose loss is not finite.

    Raises:
        PretrainingDiverged: With the step and the rate to lower.
    """
    if not math.isfinite(loss.item()):
        raise PretrainingDiverged(
            f"the loss became {loss.item()} at step {step} of {steps}; lower the learning rate "
            f"(now {rate}) and start with an empty state folder."
        )


class LearningState:
    """A network, its AdamW, its running average, the step, and one figure per step: what a snapshot holds."""

    def __init__(self, network: nn.Module, *, rate: float, decay: float) -> None:
        """Decay kernels and matrices by ``decay``; ``rate`` is the peak rate."""
        self.network = network
        self.average = {n: v.detach().clone() for n, v in network.state_dict().items()}
        decayed = [p for p in network.parameters() if p.ndim > 1]
        plain = [p for p in network.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=rate)
        self.step = 0
        self.figures: list[float] = []

    def descend(self, loss: Tensor, rate: float) -> None:
        """Move the weights once down the clipped gradient of ``loss``."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimiser.step()

    @torch.no_grad()
    def follow(self, decay: float, step: int) -> None:
        """Move the average towards the weights, faster in the first steps; counters are copied."""
        decay = min(decay, (1 + step) / (10 + step))
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    def snapshot(self) -> Snapshot:
        """Return everything that the next step depends on."""
        moments = {
            f"{index}.{name}": value
            for index, state in self.optimiser.state_dict()["state"].items()
            for name, value in state.items()
        }
        tensors = {"network": self.network.state_dict(), "average": self.average, "optimiser": moments}
        return Snapshot(tensors, {"step": self.step, "figures": self.figures})

    def restore(self, snapshot: Snapshot) -> None:
        """Continue from ``snapshot``."""
        self.network.load_state_dict(snapshot.tensors["network"])
        for name, value in self.average.items():
            value.copy_(snapshot.tensors["average"][name])
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in snapshot.tensors["optimiser"].items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = value
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": state})
        self.step, self.figures = int(snapshot.info["step"]), list(snapshot.info["figures"])


@torch.no_grad()
def settle_batchnorms(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Re-estimate the BatchNorm statistics of ``network`` on the batches; leaves it in eval mode."""
    layers = list_batchnorms(network)
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch then keeps the plain average over the batches
    network.train()
    for batch in batches:
        network(batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    network.eval()
