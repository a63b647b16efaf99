"""One thread that runs the model: all inputs that wait become one batch, so load makes batches and idleness none."""

import logging
import queue
import threading
from concurrent.futures import Future

import numpy as np

from regraft.serving.bundle.runtime import ModelHandle, ModelOutput

logger = logging.getLogger(__name__)

MAX_BATCH = 16
QUEUE_INPUTS = 256


class BatcherFullError(RuntimeError):
    """More inputs wait for the model than are taken in, or the service is stopping; try again later."""

    exit_code = None


class Batcher:
    """Runs inputs through the handle they were prepared for; one failing input does not touch its neighbours."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[ModelHandle, np.ndarray, Future] | None] = queue.Queue(QUEUE_INPUTS)
        self._thread = threading.Thread(target=self._run_forever, name="batcher", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Reads as a claim: the thread runs."""
        return self._thread.is_alive()

    def submit(self, handle: ModelHandle, pixels: np.ndarray) -> "Future[ModelOutput]":
        """Return the future answer for one uint8 (S, S, 3), as a batch of one.

        Raises:
            BatcherFullError: If too many wait.
        """
        future: Future[ModelOutput] = Future()
        try:
            self._queue.put_nowait((handle, pixels, future))
        except queue.Full as exc:
            raise BatcherFullError(f"{QUEUE_INPUTS} images wait for the model") from exc
        return future

    def close(self) -> None:
        """Answer what waits, then stop."""
        self._queue.put(None)
        self._thread.join()

    def _run_forever(self) -> None:
        waiting = self._queue.get()
        while waiting is not None:
            batch, waiting = [waiting], None
            while len(batch) < MAX_BATCH and not self._queue.empty():
                item = self._queue.get()
                if item is None or item[0] is not batch[0][0]:  # never two versions in one batch
                    waiting = item
                    _run_batch(batch)
                    break
                batch.append(item)
            else:
                _run_batch(batch)
                waiting = self._queue.get()


def _run_batch(batch: list[tuple[ModelHandle, np.ndarray, Future]]) -> None:
    batch = [item for item in batch if item[2].set_running_or_notify_cancel()]
    if not batch:
        return
    handle = batch[0][0]
    try:
        answer = handle.predict(np.stack([pixels for _, pixels, _ in batch]))
    except Exception as exc:  # onnxruntime's errors share no base class
        _run_alone(batch, exc)
        return
    for row, (_, _, future) in enumerate(batch):
        future.set_result(_slice(answer, row))


def _run_alone(batch: list[tuple[ModelHandle, np.ndarray, Future]], error: Exception) -> None:
    """Find the inputs that fail by themselves."""
    logger.error("a batch of %d failed, running it one by one: %s", len(batch), error)
    for handle, pixels, future in batch:
        try:
            future.set_result(handle.predict(pixels[None]))
        except Exception as exc:
            future.set_exception(exc)


def _slice(answer: ModelOutput, row: int) -> ModelOutput:
    part = slice(row, row + 1)
    return ModelOutput(answer.probabilities[part], answer.embedding[part], answer.logits[part])
