"""The reading side of the prediction log: slices of production as arrays, and the labels that came back.

Any process may read while the service writes; a log that does not exist yet reads as empty.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from regraft.serving.log.requests import Sampling, has_requests

BUSY_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class FeedbackRow:
    """One label that came back: for which answer, of which version, and what that had said; ``at`` in Unix seconds.

    ``sampling`` says how the image was chosen for labelling; ``asked_at`` when it was asked for, None if nobody had.
    """

    id: str
    label: str
    at: float
    image_sha256: str
    version: str
    predicted: str
    sampling: Sampling = "volunteered"
    asked_at: float | None = None


@dataclass(frozen=True, slots=True)
class LoggedAnswers:
    """N answers, oldest first unless asked otherwise.

    ``ids``, ``versions``, ``labels`` (the predicted ones) and ``image_sha256`` have N entries; ``at`` (N,) is in Unix
    seconds; ``probabilities`` (N, K), ``embeddings`` (N, P) and ``quality`` (N, Q) are float32. ``label_names`` names
    the K columns.
    """

    ids: list[str]
    at: np.ndarray
    versions: list[str]
    labels: list[str]
    label_names: tuple[str, ...]
    probabilities: np.ndarray
    embeddings: np.ndarray
    quality: np.ndarray
    image_sha256: list[str]

    def __len__(self) -> int:
        return len(self.ids)

    def drop_repeated(self, limit: int) -> "LoggedAnswers":
        """Return the latest answer of each of the ``limit`` images that were sent last, oldest first."""
        last = {sha256: row for row, sha256 in enumerate(self.image_sha256)}
        rows = sorted(last.values())[-limit:]
        lists = {name: [getattr(self, name)[row] for row in rows] for name in ("ids", "versions", "labels")}
        arrays = {name: getattr(self, name)[rows] for name in ("at", "probabilities", "embeddings", "quality")}
        return replace(self, **lists, **arrays, image_sha256=[self.image_sha256[row] for row in rows])


def read_window(
    path: Path,
    version: str | None = None,
    since: float | None = None,
    limit: int | None = None,
    newest_first: bool = False,
) -> LoggedAnswers:
    """Return answers from the log at ``path``.

    Args:
        path: The SQLite file.
        version: Only answers of this version.
        since: Only answers at or after this Unix time, in seconds.
        limit: At most so many; the newest ones.
        newest_first: Order of the result.

    Raises:
        ValueError: If the answers are of versions with different labels or embeddings; ask for one version then.
    """
    conditions, values = [], []
    if version is not None:
        conditions, values = ["version = ?"], [version]
    if since is not None:
        conditions, values = [*conditions, "at >= ?"], [*values, since]
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    query = (
        "SELECT id, at, version, label, image_sha256, probabilities, embedding, quality"
        f" FROM predictions {where} ORDER BY number DESC LIMIT ?"
    )
    with _reading(path) as connection:
        if connection is None:
            return _to_window([], {})
        rows = connection.execute(query, [*values, -1 if limit is None else limit]).fetchall()
        names = {name: tuple(json.loads(labels)) for name, labels in connection.execute("SELECT * FROM versions")}
    return _to_window(rows if newest_first else rows[::-1], names)


def read_feedback(path: Path, version: str | None = None, since: float | None = None) -> list[FeedbackRow]:
    """Return the latest label of every answer that got one, in the order they came back."""
    with _reading(path) as connection:
        if connection is None:
            return []
        asked = has_requests(connection)
        chosen = "coalesce(r.why, 'volunteered'), r.at" if asked else "'volunteered', NULL"
        query = (
            f"SELECT f.id, f.label, f.at, p.image_sha256, p.version, p.label, {chosen}"
            f" FROM feedback f JOIN predictions p USING (id) {'LEFT JOIN requests r USING (id)' if asked else ''}"
            " WHERE f.number = (SELECT max(number) FROM feedback WHERE id = f.id)"
            " AND (?1 IS NULL OR p.version = ?1) AND (?2 IS NULL OR f.at >= ?2) ORDER BY f.number"
        )
        return [FeedbackRow(*row) for row in connection.execute(query, (version, since))]


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection | None]:
    if not path.exists():
        yield None
        return
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    try:
        connection.execute("PRAGMA query_only=ON")
        ready = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'feedback_id'").fetchone()[0]
        yield connection if ready else None  # the service is just creating it
    finally:
        connection.close()


def _to_window(rows: list[tuple], names: dict[str, tuple[str, ...]]) -> LoggedAnswers:
    ids, at, versions, labels, hashes, *blobs = zip(*rows, strict=True) if rows else [()] * 8
    label_names = {names[version] for version in versions}
    widths = [{len(blob) for blob in column} for column in blobs]
    if len(label_names) > 1 or any(len(width) > 1 for width in widths):
        known = ", ".join(sorted(set(versions)))
        raise ValueError(f"these answers are of versions that do not compare ({known}); ask for one version")
    probabilities, embeddings, quality = (_stack(column) for column in blobs)
    return LoggedAnswers(
        ids=list(ids),
        at=np.array(at, dtype=np.float64),
        versions=list(versions),
        labels=list(labels),
        label_names=next(iter(label_names), ()),
        probabilities=probabilities,
        embeddings=embeddings,
        quality=quality,
        image_sha256=list(hashes),
    )


def _stack(column: tuple[bytes, ...]) -> np.ndarray:
    """Return float32 (N, width) from N equally long blobs."""
    if not column:
        return np.empty((0, 0), dtype=np.float32)
    return np.frombuffer(b"".join(column), dtype="<f4").reshape(len(column), -1)
