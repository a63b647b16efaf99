"""What happens between an upload and its answer: decode, measure, predict, log; and what the service says about itself.

No HTTP here: service.py is the door.
"""

import asyncio
import logging
import os
import secrets
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from regraft.serving.bundle.runtime import ModelHandle, ModelOutput
from regraft.serving.decoding.preprocess import ImageError, open_input, prepare_image
from regraft.serving.decoding.quality import measure_quality
from regraft.serving.endpoint.batcher import Batcher, BatcherFullError
from regraft.serving.endpoint.counters import Counters
from regraft.serving.endpoint.decoders import Decoders
from regraft.serving.endpoint.settings import ServiceSettings
from regraft.serving.endpoint.slots import Slots, SlotState
from regraft.serving.http.problems import ProblemError
from regraft.serving.log.image_store import ImageStore
from regraft.serving.log.writer import (
    LogOverloadedError,
    PredictionLog,
    PredictionRecord,
    UnknownLabelError,
    UnknownPredictionError,
)

logger = logging.getLogger(__name__)

DECODERS_END_S = 2.0
"""At a stop, what an image may still take to be decoded after its request was given up."""


class Answer(BaseModel):
    """What ``/predict`` says."""

    id: str
    label: str
    probability: float
    probabilities: dict[str, float]
    version: str


class FeedbackReceipt(BaseModel):
    """What ``/feedback`` says: the label that was kept, for which answer.

    ``trainable`` is false where the image was not kept, has left, or no longer is what was uploaded.
    """

    id: str
    label: str
    version: str
    predicted: str
    trainable: bool


@dataclass(frozen=True, slots=True)
class _Input:
    """One decoded upload: the model's uint8 (S, S, 3), the quality figures, and where the bytes went."""

    pixels: np.ndarray
    quality: np.ndarray
    image_sha256: str


class Engine:
    """Everything a running service holds; ``start`` it once, ``close`` it to flush."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self.counters = Counters()
        self.log = PredictionLog(settings.log_path)
        self.images = ImageStore(settings.image_folder, settings.image_quota_bytes)
        self.slots = Slots(settings.models_store, threads=settings.threads, on_change=self._note_change)
        self.batcher = Batcher()
        self._decoders = Decoders(settings.decoders, on_stuck=_leave)
        self._is_stopping = False

    def start(self) -> None:
        """Open the log and load the champion, if there is one."""
        self.log.start()
        self.slots.start()

    def close(self) -> bool:
        """Stop taking requests, answer what is under way, flush the log; False if an image is still being decoded."""
        self._is_stopping = True
        self.slots.stop()
        is_idle = self._decoders.close(DECODERS_END_S)
        self.batcher.close()
        self.log.close()
        return is_idle

    async def predict(self, path: Path) -> Answer:
        """Return the logged answer for the image file at ``path``, which is removed.

        Raises:
            ProblemError: If the image, the model or the log does not allow an answer.
        """
        handle = self._require_handle()
        started = time.perf_counter()
        try:
            item = await self._decoders.run(self._read_input, path, handle)
            prediction = await asyncio.wrap_future(self.batcher.submit(handle, item.pixels))
            record = _to_record(handle, item, prediction)
            await self.log.append(record)
        except ImageError as exc:
            raise ProblemError.of_image(exc) from exc
        except (BatcherFullError, LogOverloadedError) as exc:
            raise ProblemError(503, "overloaded", str(exc), "try again in a second", retry_after_s=1) from exc
        except (sqlite3.Error, OSError) as exc:
            raise _to_storage_problem(exc) from exc
        self.counters.count_answer(record.version, record.label, time.perf_counter() - started)
        probabilities = dict(zip(record.labels, map(float, record.probabilities), strict=True))
        return Answer(
            id=record.id,
            label=record.label,
            probability=probabilities[record.label],
            probabilities=probabilities,
            version=record.version,
        )

    async def take_feedback(self, prediction_id: str, label: str) -> FeedbackReceipt:
        """Return the receipt of a label for an earlier answer.

        Raises:
            ProblemError: 404 for an unknown id, 422 for an unknown label, 503 if it cannot be kept now.
        """
        try:
            row = await self.log.append_feedback(prediction_id, label)
        except UnknownPredictionError as exc:
            raise ProblemError(404, "unknown_id", "no answer has this id", "use the id that /predict returned") from exc
        except UnknownLabelError as exc:
            advice = f"use one of: {', '.join(exc.allowed)}"
            raise ProblemError(422, "unknown_label", f"{label!r} is not a label", advice, allowed=exc.allowed) from exc
        except LogOverloadedError as exc:
            raise ProblemError(503, "overloaded", str(exc), "try again in a second", retry_after_s=1) from exc
        except (sqlite3.Error, OSError) as exc:
            raise _to_storage_problem(exc) from exc
        self.images.touch(row.image_sha256)
        self.counters.count_feedback(row.version, agrees=row.label == row.predicted)
        trainable = await asyncio.to_thread(self._can_train_on, row.image_sha256)
        return FeedbackReceipt(
            id=row.id, label=row.label, version=row.version, predicted=row.predicted, trainable=trainable
        )

    def describe(self) -> dict[str, Any]:
        """Return what ``/version`` says."""
        state, reason = self.slots.state, self.find_unready()
        about: dict[str, Any] = {"version": None, "name": None, "seq": state.seq, "labels": [], "ready": reason is None}
        if state.handle is not None:
            info = state.handle.info
            about |= {"version": info.version, "name": info.name, "labels": info.labels}
            about |= {"preprocess_sha256": info.preprocess_sha256, "backbone": info.backbone.get("name")}
        if reason is not None:
            about["reason"] = reason
        if state.refusal is not None:
            about["refused"] = {"version": state.refusal.version, "reason": state.refusal.reason}
        return about

    def find_unready(self) -> str | None:
        """Return why no image can be answered now, or None."""
        if self._is_stopping:
            return "the service is stopping"
        if self.slots.handle is None:
            refusal = self.slots.state.refusal
            if refusal is not None:
                return f"the champion {refusal.version} was refused: {refusal.reason}"
            return "there is no champion yet; promote a version and it will be picked up"
        if not (self.log.is_alive and self.batcher.is_alive and self.slots.is_alive):
            return "a worker thread has died; restart the service"
        return None

    def _require_handle(self) -> ModelHandle:
        handle = self.slots.handle
        if handle is None or self._is_stopping:
            reason = self.find_unready() or "the service is stopping"
            raise ProblemError(503, "not_ready", reason, "try again later; /readyz says when", retry_after_s=2)
        return handle

    def _read_input(self, path: Path, handle: ModelHandle) -> _Input:
        try:
            data = path.read_bytes()
        finally:
            path.unlink(missing_ok=True)
        spec = handle.info.preprocess
        decoded = open_input(data, spec, max_pixels=self.settings.max_pixels)
        quality = measure_quality(decoded.pixels)
        return _Input(prepare_image(decoded.pixels, spec), quality, self._keep_image(data))

    def _keep_image(self, data: bytes) -> str:
        try:
            return self.images.keep(data)
        except OSError as exc:  # an answer is worth more than the copy of its image
            self.counters.count_lost_image()
            logger.warning("an image could not be kept: %s", exc)
            return self.images.name(data)

    def _can_train_on(self, image_sha256: str) -> bool:
        try:
            return self.images.read(image_sha256) is not None
        except OSError as exc:
            logger.warning("a kept image could not be read: %s", exc)
            return False

    def _note_change(self, state: SlotState) -> None:
        self.counters.note_slot(state)


def _to_record(handle: ModelHandle, item: _Input, prediction: ModelOutput) -> PredictionRecord:
    probabilities = prediction.probabilities[0]
    labels = tuple(handle.info.labels)
    return PredictionRecord(
        id=secrets.token_hex(12),
        at=time.time(),
        version=handle.info.version,
        labels=labels,
        label=labels[int(probabilities.argmax())],
        probabilities=probabilities,
        embedding=handle.reduce(prediction.embedding)[0],
        quality=item.quality,
        image_sha256=item.image_sha256,
    )


def _leave() -> None:
    """End this process, so that its supervisor starts another: every answer that was sent is in the log."""
    logger.critical("an image has been decoded for too long; the process ends, to be started again")
    os._exit(1)


def _to_storage_problem(exc: Exception) -> ProblemError:
    logger.error("storage failed: %s", exc)
    problem = f"the answer could not be logged ({exc})"
    return ProblemError(503, "storage", problem, "free disk space on the server, then try again", retry_after_s=10)
