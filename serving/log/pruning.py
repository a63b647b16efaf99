"""Old answers leave the prediction log; a label that nobody has learned from yet never does."""

import contextlib
import sqlite3
from collections.abc import Collection
from pathlib import Path

BUSY_TIMEOUT_S = 5.0
NEWEST_KEPT = 10_000
"""Latest answers that stay whatever their age: a quiet line must not lose the window that a watch compares."""

OLD = """
  at < ?1 AND number <= (SELECT max(number) FROM predictions) - ?2
  AND NOT (image_sha256 IN (SELECT image FROM temp.kept) AND id IN (SELECT id FROM feedback))
"""


def count_old(path: Path, before: float, unlearned: Collection[str]) -> tuple[int, int]:
    """Return how many answers ``prune_log`` would remove, and about how many bytes of the file they are.

    Args:
        path: The SQLite file; absent, it holds nothing.
        before: Answers from before this Unix time are old.
        unlearned: Content hashes of labelled images that no version learned from: their answers stay.
    """
    if not path.exists():
        return 0, 0
    with contextlib.closing(_connect(path, unlearned)) as connection:
        if not _is_ready(connection):
            return 0, 0
        every = connection.execute("SELECT count(*) FROM predictions").fetchone()[0]
        old = connection.execute(f"SELECT count(*) FROM predictions WHERE {OLD}", (before, NEWEST_KEPT)).fetchone()[0]
    return old, round(path.stat().st_size * old / max(1, every))


def prune_log(path: Path, before: float, unlearned: Collection[str]) -> int:
    """Remove old answers with their labels and return how many; safe beside a service that writes.

    Raises:
        sqlite3.OperationalError: If the log is locked for longer than some seconds; nothing is removed then.
    """
    if not path.exists():
        return 0
    with contextlib.closing(_connect(path, unlearned)) as connection:
        if not _is_ready(connection):
            return 0
        connection.execute("BEGIN IMMEDIATE")
        chosen = f"SELECT id FROM predictions WHERE {OLD}"
        connection.execute(f"DELETE FROM feedback WHERE id IN ({chosen})", (before, NEWEST_KEPT))
        removed = connection.execute(f"DELETE FROM predictions WHERE {OLD}", (before, NEWEST_KEPT)).rowcount
        connection.execute("COMMIT")
        with contextlib.suppress(sqlite3.OperationalError):  # a reader is at work: the space is used again later
            connection.execute("VACUUM")
    return removed


def _connect(path: Path, unlearned: Collection[str]) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    connection.execute("CREATE TEMP TABLE kept (image TEXT PRIMARY KEY)")
    connection.executemany("INSERT OR IGNORE INTO temp.kept VALUES (?)", [(sha256,) for sha256 in unlearned])
    return connection


def _is_ready(connection: sqlite3.Connection) -> bool:
    """Say whether the service has made all its tables."""
    return bool(connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'feedback_id'").fetchone()[0])
