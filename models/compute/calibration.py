"""How fast this machine is: half a second of a fixed convolution, a fixed product and moves through memory."""

import statistics
import time

import torch
from torch.nn import functional

from regraft.models.compute.budget import Speed
from regraft.models.compute.device import DeviceName, choose_device, limit_threads

LEAST_ROUNDS, CALIBRATION_S = 3, 0.5
"""Rounds of the calibration: at least so many, then until the time is over."""
CONVOLUTION = (16, 32, 56, 64)
"""Calibration: images, channels in, side in px, channels out."""
MATRIX = 384


def measure_speed(threads: int, device: DeviceName = "auto") -> Speed:
    """Return what this machine does in a second, from half a second of a fixed convolution and a fixed product.

    Billions of operations per second come from the product and the convolution, billions of activation bytes from
    batch normalisation and a rectifier, which move memory and compute next to nothing; medians of several rounds.

    Args:
        threads: CPU threads that the run will use.
        device: Where it will compute.

    Raises:
        DeviceError: If "cuda" is asked for and absent.
    """
    place = choose_device(device)
    images, channels, side, wide = CONVOLUTION
    batch = torch.ones(images, channels, side, side, device=place).to(memory_format=torch.channels_last)
    kernel = torch.ones(wide, channels, 3, 3, device=place)
    matrix = torch.ones(MATRIX, MATRIX, device=place)
    mean, spread = torch.zeros(wide, device=place), torch.ones(wide, device=place)
    operations = 2 * images * side**2 * wide * channels * 9 + 4 * 2 * MATRIX**3
    compute, move = [], []
    with limit_threads(threads), torch.inference_mode():
        started = _now(place)
        while len(move) <= LEAST_ROUNDS or _now(place) - started < CALIBRATION_S:
            began = _now(place)
            response = functional.conv2d(batch, kernel, padding=1)
            for _ in range(4):
                matrix @ matrix
            computed = _now(place)
            for _ in range(4):
                functional.relu(functional.batch_norm(response, mean, spread))
            compute.append(computed - began)
            move.append(_now(place) - computed)
    # The first round warms up.
    written = 4 * 2 * 4 * images * wide * side**2
    return Speed(operations / 1e9 / statistics.median(compute[1:]), written / 1e9 / statistics.median(move[1:]))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
