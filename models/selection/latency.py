"""How long one image takes in a network on this machine: measured once, remembered outside the graph of stages.

The figure depends on the machine and its load, so it never enters what a stage writes unless a limit was asked for.
"""

import json
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from regraft.models.compute.device import is_convolutional, limit_threads
from regraft.serving.files.durable import write_json

ROUNDS = 9


def measure_latency(network: nn.Module, size_px: int, threads: int) -> float:
    """Return the median milliseconds of one image through ``network`` on the CPU, after a warm-up."""
    image = torch.zeros(1, 3, size_px, size_px)
    if is_convolutional(network):
        image = image.contiguous(memory_format=torch.channels_last)
    with limit_threads(threads), torch.inference_mode():
        network.eval()(image)
        taken = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            network(image)
            taken.append(1000 * (time.perf_counter() - started))
    return statistics.median(taken)


def recall_latency(path: Path, key: str, network: nn.Module, size_px: int, threads: int) -> float:
    """Return the latency kept in ``path`` under ``key``; measure and keep it the first time.

    Args:
        path: JSON file of this machine; one that cannot be read is written anew.
        key: The weights' hash, say: the same network is measured once.
        network: On the CPU.
        size_px: Side of the image.
        threads: CPU threads.
    """
    name = f"{key}@{size_px}px/{threads}"
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        known = {}
    known = known if isinstance(known, dict) else {}
    if not isinstance(known.get(name), float):
        known[name] = round(measure_latency(network, size_px, threads), 3)
        write_json(path, known)
    return known[name]
