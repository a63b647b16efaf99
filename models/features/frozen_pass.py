"""One pass of a network that is not trained: ONNX Runtime on a CPU, where it agrees with torch; else torch itself."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regraft.models.backbones.network import Normalization
from regraft.models.compute.device import full_precision, is_convolutional, place_module, send_array, send_tensor
from regraft.models.compute.onnx_runtime import start_session, take_graph

logger = logging.getLogger(__name__)

TORCH = "torch"
RUNTIME = f"onnxruntime {version('onnxruntime')}"
TOLERANCE = 1e-4
"""Largest difference between the engines, as a share of the largest value, at which ONNX Runtime is taken."""
BATCH_SIZE = 32
"""Images that torch computes at once; one network's rows may hang on it in their last digits."""
PIECE = 8
"""Images that one thread makes and computes before it takes the next: few enough that all threads end together, many
enough that changed copies are made in one go."""
TRIED = 4
"""Images on which they are compared: drawn, the same for all, so that the choice hangs on the network alone and all
features of one network are of one engine."""


def normalise_pixels(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return float32 ``(B, 3, S, S)`` from uint8 ``(B, S, S, 3)``; laid out channels_last, as the pixels were.

    Args:
        pixels: Colour values 0-255.
        mean: Per channel on the scale 0-1, broadcastable to ``(1, 3, 1, 1)``.
        std: Likewise.
    """
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std


def normalization_tensors(normalization: Normalization, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Return mean and std, each of shape ``(1, 3, 1, 1)``."""
    mean = torch.tensor(normalization.mean, dtype=torch.float32, device=device).view(1, 3, 1, 1)
    return mean, torch.tensor(normalization.std, dtype=torch.float32, device=device).view(1, 3, 1, 1)


def list_engines(device: torch.device) -> tuple[str, ...]:
    """Return what may compute a pass on ``device``, the first choice first; each gives other last digits."""
    return (RUNTIME, TORCH) if device.type == "cpu" else (TORCH,)


def draw_images(size_px: int) -> np.ndarray:
    """Return ``(TRIED, S, S, 3)`` uint8: patches of random colours, of another grain in each image."""
    rng, images = np.random.default_rng(0), []
    for grain in range(TRIED):
        side = -(-size_px // 2**grain)
        patches = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        images.append(patches.repeat(2**grain, 0).repeat(2**grain, 1)[:size_px, :size_px])
    return np.stack(images)


class FrozenPass:
    """A network as it stands when this is made, from uint8 images ``(B, S, S, 3)`` to float32 rows ``(B, D)``.

    Attributes:
        engine: Which computes, of ``list_engines``.
    """

    def __init__(self, network: nn.Module, normalization: Normalization, size_px: int, device: torch.device) -> None:
        """Choose the engine for images of ``size_px``; the network is left on ``device`` in eval mode."""
        self._network, self._device = place_module(network, device).eval(), device
        self._mean, self._std = normalization_tensors(normalization, device)
        self._channels_last = is_convolutional(network)
        self._session: Any = None  # until one has answered as torch does
        if device.type == "cpu":
            self._session = self._open_session(draw_images(size_px))
        self.engine = TORCH if self._session is None else RUNTIME

    def run_pieces(self, count: int, make: Callable[[int, int], np.ndarray]) -> Iterator[Tensor]:
        """Yield the rows of ``count`` images in their order, a piece at a time; see ``embed`` for where.

        On a CPU as many pieces are in hand as there are threads, each made and computed by one of them: images are
        read and changed while others go through the network. A row then hangs on its image alone, not on its
        neighbours and not on the number of threads.

        Args:
            count: Images in all, one at least.
            make: From the places of the first image of a piece and of the first after it to uint8 ``(B, S, S, 3)``;
                called from several threads.
        """
        if self._session is None:
            for start in range(0, count, BATCH_SIZE):
                bounds = _cut(start, min(start + BATCH_SIZE, count))
                yield self.embed(np.concatenate([make(*each) for each in bounds]))
            return
        with _pool(torch.get_num_threads()) as pool:
            ahead: list[Future[np.ndarray]] = [
                pool.submit(lambda first, after: self._answer(make(first, after)), *each) for each in _cut(0, count)
            ]
            for each in ahead:
                yield torch.from_numpy(each.result())

    def run(self, batch: np.ndarray | Tensor) -> np.ndarray:
        """Return the rows of uint8 images ``(B, S, S, 3)``."""
        return self.embed(batch).cpu().numpy()

    def embed(self, batch: np.ndarray | Tensor) -> Tensor:
        """Return the rows of uint8 images ``(B, S, S, 3)`` where they were computed; on CUDA nothing is waited for.

        In float32, without TF32: a served model computes so, and its head is fitted on these.
        """
        if self._session is not None:
            images = batch.numpy() if isinstance(batch, Tensor) else batch
            return torch.cat(list(self.run_pieces(len(images), lambda first, after: images[first:after])))
        send = send_tensor if isinstance(batch, Tensor) else send_array
        pixels = send(batch, self._device)
        with torch.inference_mode(), full_precision(self._device):
            images = normalise_pixels(pixels, self._mean, self._std)
            return self._network(images if self._channels_last else images.contiguous()).float()

    def _answer(self, images: np.ndarray) -> np.ndarray:
        """Return the rows of a piece, each image by itself: its activations stay in the cache of one core."""
        images = np.ascontiguousarray(images)
        return np.concatenate([self._session.run(None, {"images": each[None]})[0] for each in images])

    def _open_session(self, sample: np.ndarray) -> object | None:
        """Return a session that answers ``sample`` as torch does, or None; the log says why."""
        name = type(self._network).__name__
        try:
            # Traced on other images than it is tried on: what a trace took for a constant must not pass.
            black = torch.zeros_like(torch.from_numpy(sample))
            graph = take_graph(_Normalised(self._network, self._mean, self._std), black)
            session = start_session(graph, 1)
            got = session.run(None, {"images": sample})[0]
        except Exception as exc:  # both raise what they like
            logger.info("%s stays with torch: no ONNX graph of it (%s)", name, type(exc).__name__, exc_info=True)
            return None
        wanted = self.run(sample)
        off = float(np.abs(got - wanted).max()) / max(float(np.abs(wanted).max()), 1e-12)
        if not off <= TOLERANCE:
            logger.warning("%s stays with torch: ONNX Runtime is off by %.2g, allowed %.2g", name, off, TOLERANCE)
            return None
        return session


def _cut(start: int, end: int) -> list[tuple[int, int]]:
    """Return the bounds of the pieces from ``start`` to ``end``."""
    return [(first, min(first + PIECE, end)) for first in range(start, end, PIECE)]


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Open ``threads`` threads; what has not begun when the block is left is dropped."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="frozen-pass")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


class _Normalised(nn.Module):
    """The network behind the normalisation of its colours: the graph takes the pixels as they are."""

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network(normalise_pixels(pixels, self.mean, self.std).contiguous())
