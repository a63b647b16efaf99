"""Where a batch of images comes from: the device's own memory when the set fits there, else the host's, one ahead.

Which rows a batch has is decided in ``training``; both sources give the same bytes for the same rows.
"""

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from regraft.models.compute.device import send_array, send_tensor

logger = logging.getLogger(__name__)

RESIDENT_SHARE = 0.4
"""Of the device's free memory that images may take: the rest is for weights, activations and the optimiser."""
CHUNK = 256
"""Images that are sent at once when a set is moved to the device."""


class PixelSource(Protocol):
    """Gives images of one set by their rows."""

    def take(self, rows: np.ndarray, following: np.ndarray | None = None) -> Tensor:
        """Return the images at ``rows``, uint8 ``(B, S, S, 3)`` on the device.

        ``following`` are the rows that will be asked for next, if that is known: they may be fetched meanwhile.
        """


class StreamedPixels:
    """Images on the host, perhaps a memory map: only what is asked for is read.

    On CUDA they go through pinned memory, so that the copy runs beside the computing, and the next batch is read by a
    thread while this one is computed. A CPU has no second device to keep busy: there a batch is read when it is needed.
    """

    def __init__(self, pixels: np.ndarray, device: torch.device, *, ahead: bool | None = None) -> None:
        """Read from ``pixels`` uint8 ``(N, S, S, 3)``; ``ahead`` reads the next batch too, by default on CUDA only."""
        self._pixels, self._device = pixels, device
        ahead = device.type == "cuda" if ahead is None else ahead
        self._reader = ThreadPoolExecutor(1, "next-batch") if ahead else None
        self._next: tuple[np.ndarray, Future[Tensor]] | None = None

    def take(self, rows: np.ndarray, following: np.ndarray | None = None) -> Tensor:
        """Return the images at ``rows``; see ``PixelSource``."""
        awaited, self._next = self._next, None
        # Another batch than was announced, after a restart for instance, is read now.
        known = awaited is not None and np.array_equal(awaited[0], rows)
        batch = awaited[1].result() if awaited is not None and known else self._read(rows)
        if self._reader is not None and following is not None:
            self._next = (following, self._reader.submit(self._read, following))
        return send_tensor(batch, self._device)

    def _read(self, rows: np.ndarray) -> Tensor:
        batch = torch.from_numpy(np.ascontiguousarray(self._pixels[rows]))
        return batch.pin_memory() if self._device.type == "cuda" else batch


class ResidentPixels:
    """Images on the device, as bytes: a batch is picked there, and nothing but its rows crosses the bus."""

    def __init__(self, pixels: np.ndarray, rows: np.ndarray, device: torch.device) -> None:
        """Copy the images at ``rows`` of ``pixels`` uint8 ``(N, S, S, 3)``; no others can be taken later."""
        self._device = device
        self._places = np.full(len(pixels), -1)
        self._places[rows] = np.arange(len(rows))
        self._images = torch.empty((len(rows), *pixels.shape[1:]), dtype=torch.uint8, device=device)
        for start in range(0, len(rows), CHUNK):
            chosen = rows[start : start + CHUNK]
            self._images[start : start + len(chosen)] = send_array(pixels[chosen], device)

    def take(self, rows: np.ndarray, following: np.ndarray | None = None) -> Tensor:
        """Return the images at ``rows``; see ``PixelSource``.

        Raises:
            IndexError: If one of them was not copied.
        """
        places = self._places[rows]
        if len(places) and places.min() < 0:
            raise IndexError(f"image {int(rows[places.argmin()])} is not among the {len(self._images)} on the device.")
        return self._images[send_array(places, self._device)]


def open_source(pixels: np.ndarray, rows: np.ndarray, device: torch.device) -> PixelSource:
    """Return the faster source of the images at ``rows`` of uint8 ``(N, S, S, 3)``.

    On CUDA that is the device's memory where they take at most ``RESIDENT_SHARE`` of what is free; on a CPU the array
    itself.
    """
    if device.type != "cuda":
        return StreamedPixels(pixels, device)
    needed, (free, _) = len(rows) * int(np.prod(pixels.shape[1:])), torch.cuda.mem_get_info(device)
    resident = fits_device(needed, free)
    logger.info("pixels resident=%s gib=%.2f free_gib=%.2f", resident, needed / 2**30, free / 2**30)
    return ResidentPixels(pixels, rows, device) if resident else StreamedPixels(pixels, device)


def fits_device(needed: int, free: int) -> bool:
    """Say whether ``needed`` bytes of images may lie in a device's memory of which ``free`` bytes are free."""
    return needed <= RESIDENT_SHARE * free
