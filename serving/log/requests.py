"""What people were asked to label, and why: kept beside the answers, so that a label that comes back says how its image
was chosen. Only a random sample may ever judge a model; any process may ask while the service writes.
"""

import contextlib
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Sampling = Literal["random", "uncertain", "volunteered"]
"""How an image came to be labelled: drawn at random, picked because the champion was unsure, or nobody had asked."""

BUSY_TIMEOUT_S = 30.0

SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
  number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, why TEXT NOT NULL, at REAL NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class LabelRequest:
    """One answer whose right label is wanted; ``at`` in Unix seconds is when it was first asked for."""

    id: str
    why: Sampling
    at: float
    version: str
    image_sha256: str
    answered_at: float
    labelled: bool


def ask_for_labels(path: Path, rows: Iterable[tuple[str, Sampling]]) -> None:
    """Record in the log at ``path`` that labels of these answers (id, why) are wanted; the first reason stays.

    Raises:
        sqlite3.Error: If the log cannot be written.
    """
    now = time.time()
    with contextlib.closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(SCHEMA)
        connection.executemany(
            "INSERT OR IGNORE INTO requests (id, why, at) VALUES (?, ?, ?)", [(one, why, now) for one, why in rows]
        )
        connection.execute("COMMIT")


def read_requests(path: Path, version: str, since: float | None = None) -> list[LabelRequest]:
    """Return what was asked about answers of ``version``, oldest first; an absent log reads as empty.

    Args:
        path: The SQLite file.
        version: The version that answered.
        since: Only what was asked at or after this Unix time, in seconds.
    """
    query = (
        "SELECT r.id, r.why, r.at, p.version, p.image_sha256, p.at, EXISTS (SELECT 1 FROM feedback WHERE id = r.id)"
        " FROM requests r JOIN predictions p USING (id)"
        " WHERE p.version = ?1 AND (?2 IS NULL OR r.at >= ?2) ORDER BY r.number"
    )
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection:
        connection.execute("PRAGMA query_only=ON")
        if not has_requests(connection):
            return []
        return [LabelRequest(*row[:6], bool(row[6])) for row in connection.execute(query, (version, since))]


def has_requests(connection: sqlite3.Connection) -> bool:
    """Say whether anybody was ever asked: the table is made with the first request."""
    return bool(connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'requests'").fetchone()[0])
