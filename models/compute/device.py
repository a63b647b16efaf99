"""Where and with how many threads torch computes: the device asked for, the number format on it, a thread limit."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import threadpoolctl
import torch
from torch import Tensor, nn

from regraft.models.compute.memory import keep_memory

DeviceName = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class Compute:
    """What the last digits depend on beside code and data.

    Attributes:
        seed: Of everything that is drawn.
        device: Where to compute.
        threads: On the CPU; sums are split by thread.
    """

    seed: int = 0
    device: DeviceName = "auto"
    threads: int = 2

    @classmethod
    def of(cls, settings: "ComputeSettings") -> "Compute":
        """Return what the settings of a stage say."""
        return cls(settings.seed, settings.device, settings.threads)


class ComputeSettings(Protocol):
    """Settings of a stage that computes, whatever else they hold."""

    @property
    def seed(self) -> int:
        """Return the seed of everything that is drawn."""

    @property
    def device(self) -> DeviceName:
        """Return where to compute."""

    @property
    def threads(self) -> int:
        """Return how many threads the CPU uses."""


class DeviceError(RuntimeError):
    """The device asked for is not on this machine."""

    exit_code = 2


def choose_device(name: DeviceName) -> torch.device:
    """Return the device called ``name``; "auto" takes CUDA when it is there.

    Raises:
        DeviceError: If "cuda" is asked for and absent; never falls back to the CPU by itself.
    """
    if name == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if name == "cuda":
        raise DeviceError(
            'device "cuda" was asked for, but torch sees no CUDA device here. '
            'Use device "cpu" or "auto", or install a CUDA build of torch on a machine with a GPU.'
        )
    return torch.device("cpu")


def mixed_precision(device: torch.device) -> AbstractContextManager:
    """Return a context that computes in bfloat16 on CUDA and leaves a CPU at float32 (bf16 is slower there)."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute in float32 as it is meant inside the block: no autocast, and on CUDA no TF32 in products and kernels.

    The endpoint serves float32. Whatever a choice, a threshold or a temperature is fitted on must be rounded as the
    answers will be; TF32 keeps ten bits of a number, and cuDNN takes it for convolutions unless it is told not to.
    """
    settings = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
    before = [each.fp32_precision for each in settings]
    for each in settings:
        each.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for each, value in zip(settings, before, strict=True):
            each.fp32_precision = value


def send_array(array: np.ndarray, device: torch.device) -> Tensor:
    """Return ``array`` on ``device``; on a CPU it shares its memory, on CUDA the copy is under way when this returns.

    From pinned memory the copy needs no waiting for the device, which is why small arrays come through here too.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return send_tensor(tensor, device)


def send_tensor(tensor: Tensor, device: torch.device) -> Tensor:
    """Return ``tensor`` on ``device``, see ``send_array``."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@contextmanager
def limit_threads(threads: int) -> Iterator[None]:
    """Use exactly ``threads`` threads inside the block, in torch and in BLAS, and keep the memory they hand on.

    Sums are split by thread, so the number belongs to the recipe: another number gives other last digits.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpoolctl.threadpool_limits(threads), keep_memory():
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def deterministic_kernels() -> Iterator[None]:
    """Prefer deterministic kernels inside the block; warns in the log where CUDA has none."""
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    # Torch would also fill the memory of every result before a layer writes it: a tenth of a step's time, for the sake
    # of code that reads what it never wrote.
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = False
    # On CUDA some gradients have no deterministic kernel: better a run than a refusal; on CPU all we use have one.
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = filled


def is_convolutional(module: nn.Module) -> bool:
    """Say whether ``module`` is built of convolutions, so that channels_last pays (one patch embedding is not)."""
    return sum(isinstance(child, nn.Conv2d) for child in module.modules()) > 2


def place_module(module: nn.Module, device: torch.device) -> nn.Module:
    """Move ``module`` to ``device`` in the memory layout that is fast for it; returns the same object."""
    if is_convolutional(module):
        return module.to(device=device, memory_format=torch.channels_last)
    return module.to(device)
