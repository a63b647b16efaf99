"""The prediction log: every answer and every label that came back, in one SQLite file (WAL).

One thread writes; whoever appends waits until the commit that holds the row, so an answer that was sent is in the log.
How windows are read is in windows.py.
"""

import asyncio
import contextlib
import json
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regraft.serving.log.reader import BUSY_TIMEOUT_S, FeedbackRow, LoggedAnswers, read_feedback, read_window

logger = logging.getLogger(__name__)

GROUP_ROWS = 256
QUEUE_ROWS = 2048

SCHEMA = """
CREATE TABLE IF NOT EXISTS versions (version TEXT PRIMARY KEY, labels TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS predictions (
  number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, at REAL NOT NULL, version TEXT NOT NULL, label TEXT NOT NULL,
  probabilities BLOB NOT NULL, embedding BLOB NOT NULL, quality BLOB NOT NULL, image_sha256 TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS predictions_at ON predictions (at);
CREATE INDEX IF NOT EXISTS predictions_version ON predictions (version, number);
CREATE TABLE IF NOT EXISTS feedback (
  number INTEGER PRIMARY KEY, id TEXT NOT NULL REFERENCES predictions (id), label TEXT NOT NULL, at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS feedback_id ON feedback (id, number);
"""


class UnknownPredictionError(LookupError):
    """An id that no answer in the log has."""

    exit_code = None


class UnknownLabelError(ValueError):
    """A label that the version which answered does not know; ``allowed`` are those it does."""

    exit_code = None

    def __init__(self, label: str, allowed: list[str]) -> None:
        super().__init__(f"{label!r} is not a label of this model; allowed are: {', '.join(allowed)}")
        self.allowed = allowed


class LogOverloadedError(RuntimeError):
    """More answers wait for the log than it takes in; try again later."""

    exit_code = None


@dataclass(frozen=True, slots=True)
class PredictionRecord:
    """One answer as it is logged: probabilities (K,), reduced embedding (P,) and quality (Q,) as float32."""

    id: str
    at: float
    version: str
    labels: tuple[str, ...]
    label: str
    probabilities: np.ndarray
    embedding: np.ndarray
    quality: np.ndarray
    image_sha256: str


class PredictionLog:
    """The log at ``path``. Reading touches nothing; the first append (or ``start``) makes the file and its writer."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._queue: queue.Queue[tuple[Callable[[sqlite3.Connection], Any], Future] | None] = queue.Queue(QUEUE_ROWS)
        self._lock = threading.Lock()  # between starting, appending and closing
        self._thread: threading.Thread | None = None
        self._is_closed = False

    @property
    def is_alive(self) -> bool:
        """Reads as a claim: the writer runs and takes rows."""
        return self._thread is not None and self._thread.is_alive() and not self._is_closed

    def start(self) -> None:
        """Make the file if needed and start the writer; sqlite3.Error or OSError if the disk does not allow it."""
        if self._thread is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = _open_for_writing(self.path)
            self._thread = threading.Thread(
                target=self._write_forever, args=(connection,), name="prediction-log", daemon=True
            )
            self._thread.start()

    def read_window(
        self,
        version: str | None = None,
        since: float | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> LoggedAnswers:
        """Return a slice of the log as arrays; see ``regraft.serving.log.reader.read_window``."""
        return read_window(self.path, version, since, limit, newest_first)

    def feedback(self, version: str | None = None, since: float | None = None) -> list[FeedbackRow]:
        """Return the latest label of every answer that got one; see ``regraft.serving.log.reader.read_feedback``."""
        return read_feedback(self.path, version, since)

    async def append(self, record: PredictionRecord) -> None:
        """Return once ``record`` is committed.

        Raises:
            LogOverloadedError: If the queue is full or the log is closed.
            sqlite3.Error: If the disk does not take the row.
        """
        await asyncio.wrap_future(self._submit(lambda connection: _insert_record(connection, record)))

    def append_now(self, record: PredictionRecord) -> None:
        """Do as ``append``, for callers outside an event loop."""
        self._submit(lambda connection: _insert_record(connection, record)).result()

    async def append_feedback(self, prediction_id: str, label: str) -> FeedbackRow:
        """Return the committed label; raises as ``record_feedback``."""
        return await asyncio.wrap_future(self._submit_feedback(prediction_id, label))

    def record_feedback(self, prediction_id: str, label: str) -> FeedbackRow:
        """Return the committed label; a later one for the same answer replaces it for the readers.

        Raises:
            UnknownPredictionError: If no answer has this id.
            UnknownLabelError: If the version that answered has no such label.
        """
        return self._submit_feedback(prediction_id, label).result()

    def close(self) -> None:
        """Commit what is queued and stop the writer; later appends are refused."""
        with self._lock:
            already, self._is_closed = self._is_closed, True
        if self._thread is not None and not already:
            self._queue.put(None)
            self._thread.join()

    def _submit_feedback(self, prediction_id: str, label: str) -> Future:
        return self._submit(lambda connection: _insert_feedback(connection, prediction_id, label))

    def _submit(self, work: Callable[[sqlite3.Connection], Any]) -> Future:
        future: Future = Future()
        with self._lock:  # nothing may be queued behind the writer's stop mark
            if self._is_closed:
                raise LogOverloadedError("the prediction log is closed; the service is stopping")
            self.start()
            try:
                self._queue.put_nowait((work, future))
            except queue.Full as exc:
                raise LogOverloadedError(f"{QUEUE_ROWS} answers wait for the prediction log; try later") from exc
        return future

    def _write_forever(self, connection: sqlite3.Connection) -> None:
        with contextlib.closing(connection):
            stopping = False
            while not stopping:
                group, stopping = self._take_group()
                if group:
                    _commit_group(connection, group)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _take_group(self) -> tuple[list, bool]:
        """Wait for one piece of work, return all there is up to GROUP_ROWS, and whether to stop afterwards."""
        group, item = [], self._queue.get()
        while item is not None:
            group.append(item)
            if len(group) == GROUP_ROWS:
                return group, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return group, False
        return group, True


def _open_for_writing(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")  # one sync a group costs little; an answer outlives a power cut
    connection.executescript(SCHEMA)
    return connection


def _commit_group(connection: sqlite3.Connection, group: list[tuple[Callable, Future]]) -> None:
    """Do all pieces of work in one transaction and wake their waiters after the commit; a failing piece fails alone."""
    outcomes: list[tuple[Future, Any, BaseException | None]] = []
    try:
        connection.execute("BEGIN IMMEDIATE")
        for work, future in group:
            outcomes.append((future, *_attempt(connection, work)))
        connection.execute("COMMIT")
    except sqlite3.Error as exc:
        logger.error("prediction log refused %d rows: %s", len(group), exc)
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        outcomes = [(future, None, exc) for _, future in group]
    for future, result, error in outcomes:
        if future.set_running_or_notify_cancel():
            future.set_result(result) if error is None else future.set_exception(error)


def _attempt(connection: sqlite3.Connection, work: Callable) -> tuple[Any, BaseException | None]:
    try:
        return work(connection), None
    except sqlite3.IntegrityError as exc:
        return None, exc
    except sqlite3.Error:
        raise  # a full disk is everyone's, anything else this row's own
    except Exception as exc:
        return None, exc


def _insert_record(connection: sqlite3.Connection, record: PredictionRecord) -> None:
    labels = json.dumps(record.labels, ensure_ascii=False)
    connection.execute("INSERT OR IGNORE INTO versions VALUES (?, ?)", (record.version, labels))
    vectors = (record.probabilities, record.embedding, record.quality)
    blobs = (np.asarray(vector, dtype="<f4").tobytes() for vector in vectors)
    connection.execute(
        "INSERT INTO predictions (id, at, version, label, probabilities, embedding, quality, image_sha256)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (record.id, record.at, record.version, record.label, *blobs, record.image_sha256),
    )


def _insert_feedback(connection: sqlite3.Connection, prediction_id: str, label: str) -> FeedbackRow:
    query = "SELECT p.image_sha256, p.version, p.label, v.labels FROM predictions p JOIN versions v USING (version)"
    row = connection.execute(f"{query} WHERE p.id = ?", (prediction_id,)).fetchone()
    if row is None:
        raise UnknownPredictionError(f"no answer has the id {prediction_id!r}; use the id that /predict returned")
    image_sha256, version, predicted, labels = row
    allowed = json.loads(labels)
    if label not in allowed:
        raise UnknownLabelError(label, allowed)
    at = time.time()
    connection.execute("INSERT INTO feedback (id, label, at) VALUES (?, ?, ?)", (prediction_id, label, at))
    return FeedbackRow(prediction_id, label, at, image_sha256, version, predicted)
