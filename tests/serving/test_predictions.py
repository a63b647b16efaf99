"""An answer that was waited for is in the log, whatever happens afterwards."""

import asyncio
import json
import sqlite3
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from regraft.serving.log.writer import (
    LogOverloadedError,
    PredictionLog,
    PredictionRecord,
    UnknownLabelError,
    UnknownPredictionError,
)


def record(number: int, version: str = "v1", labels: tuple[str, ...] = ("a", "b"), at: float = 0.0) -> PredictionRecord:
    probabilities = np.full(len(labels), 1 / len(labels), np.float32)
    vectors = (probabilities, np.full(4, number, np.float32), np.arange(10, dtype=np.float32))
    return PredictionRecord(f"id{number}", at or float(number), version, labels, labels[0], *vectors, f"{number:064x}")


@pytest.fixture
def log(tmp_path):
    log = PredictionLog(tmp_path / "deep" / "predictions.db")
    yield log
    log.close()


def test_a_log_that_does_not_exist_reads_as_empty_and_is_not_made(log):
    assert len(log.read_window()) == 0 and log.feedback() == []
    assert not log.path.exists()


def test_what_was_appended_comes_back_in_order_and_bit_for_bit(log):
    for number in range(5):
        log.append_now(record(number))
    window = log.read_window()
    assert window.ids == [f"id{number}" for number in range(5)]
    assert window.at.tolist() == [0, 1, 2, 3, 4] and window.versions == ["v1"] * 5 and window.labels == ["a"] * 5
    assert window.label_names == ("a", "b") and window.image_sha256[3] == f"{3:064x}"
    assert window.embeddings[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert (window.probabilities.shape, window.embeddings.shape, window.quality.shape) == ((5, 2), (5, 4), (5, 10))
    assert window.quality.dtype == np.float32


def test_windows_can_be_narrowed(log, count_answers):
    for number in range(6):
        log.append_now(record(number, version="v1" if number < 4 else "v2"))
    assert log.read_window(version="v2").ids == ["id4", "id5"]
    assert log.read_window(since=3.0).ids == ["id3", "id4", "id5"]
    assert log.read_window(version="v1", since=2.0, limit=1).ids == ["id3"]
    assert log.read_window(limit=3).ids == ["id3", "id4", "id5"]
    assert log.read_window(limit=2, newest_first=True).ids == ["id5", "id4"]
    assert len(log.read_window(version="v3")) == 0
    assert count_answers(log.path) == 6 and count_answers(log.path, "v2") == 2


def test_versions_that_do_not_compare_are_not_mixed(log):
    log.append_now(record(0))
    log.append_now(record(1, version="v2", labels=("a", "b", "c")))
    with pytest.raises(ValueError, match=r"v1, v2.*ask for one version"):
        log.read_window()
    assert log.read_window(version="v2").label_names == ("a", "b", "c")


def test_feedback_finds_its_answer_and_the_last_word_counts(log):
    log.append_now(record(1))
    log.append_now(record(2))
    first = log.record_feedback("id2", "b")
    assert (first.predicted, first.version, first.image_sha256) == ("a", "v1", f"{2:064x}")
    log.record_feedback("id1", "b")
    log.record_feedback("id2", "a")
    assert [(row.id, row.label) for row in log.feedback()] == [("id1", "b"), ("id2", "a")]
    assert log.feedback(version="v2") == [] and log.feedback(since=time.time() + 9) == []


def test_unknown_ids_and_labels_are_refused_with_what_is_allowed(log):
    log.append_now(record(1))
    with pytest.raises(UnknownPredictionError, match="id9"):
        log.record_feedback("id9", "a")
    with pytest.raises(UnknownLabelError, match="allowed are: a, b") as caught:
        log.record_feedback("id1", "z")
    assert caught.value.allowed == ["a", "b"]
    assert log.feedback() == []


def test_one_bad_row_does_not_take_its_group_along(log):
    async def append_all() -> list:
        rows = [record(1), record(1), record(2)]
        return await asyncio.gather(*map(log.append, rows), return_exceptions=True)

    outcomes = asyncio.run(append_all())
    assert [type(outcome) for outcome in outcomes] == [type(None), sqlite3.IntegrityError, type(None)]
    assert log.read_window().ids == ["id1", "id2"]


def test_many_waiting_appends_share_commits(log):
    statements, release = [], threading.Event()
    log._submit(lambda connection: connection.set_trace_callback(statements.append)).result()

    async def append_behind_a_blocker() -> None:
        log._submit(lambda connection: release.wait())
        asyncio.get_running_loop().call_later(0.05, release.set)
        await asyncio.gather(*(log.append(record(number)) for number in range(100)))

    asyncio.run(append_behind_a_blocker())
    assert len(log.read_window()) == 100
    assert sum(statement.startswith("COMMIT") for statement in statements) <= 3


def test_a_programming_error_in_one_row_does_not_stop_the_writer(log):
    with pytest.raises(TypeError):
        log._submit(lambda connection: len(5)).result()
    log.append_now(record(1))
    assert log.is_alive


def test_a_closed_log_has_everything_and_takes_no_more(log):
    futures = [log._submit(lambda connection, n=n: connection.execute("SELECT ?", (n,)).fetchone()) for n in range(20)]
    log.close()
    assert [future.result()[0] for future in futures] == list(range(20))
    with pytest.raises(LogOverloadedError, match="closed"):
        log.append_now(record(1))
    log.close()


def test_a_full_queue_refuses_instead_of_growing(log):
    release = threading.Event()
    log._submit(lambda connection: release.wait())
    time.sleep(0.05)  # the writer has taken it
    with pytest.raises(LogOverloadedError, match="try later"):
        for number in range(10_000):
            log._submit(lambda connection, n=number: n)
    release.set()


def test_a_database_locked_by_another_is_said_and_survived(log, monkeypatch):
    log.append_now(record(1))
    monkeypatch.setattr("regraft.serving.log.writer.BUSY_TIMEOUT_S", 0.01)
    other = sqlite3.connect(log.path, isolation_level=None)
    log._submit(lambda connection: connection.execute("PRAGMA busy_timeout=10")).result()
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        log.append_now(record(2))
    other.execute("ROLLBACK")
    other.close()
    log.append_now(record(3))
    assert log.read_window().ids == ["id1", "id3"]


WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from regraft.serving.log.writer import PredictionLog, PredictionRecord
log, number = PredictionLog(Path(sys.argv[1])), 0
while True:
    vectors = (np.full(2, .5), np.zeros(4), np.zeros(10))
    log.append_now(PredictionRecord(f"{sys.argv[2]}-{number}", 1.0, "v", ("a", "b"), "a", *vectors, "0" * 64))
    print(number, flush=True)
    number += 1
"""


def test_no_acknowledged_row_is_lost_when_the_process_is_killed(tmp_path):
    path = tmp_path / "predictions.db"
    for attempt in range(3):
        command = [sys.executable, "-c", WRITER, str(path), str(attempt)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            acknowledged = [json.loads(writer.stdout.readline()) for _ in range(20)]
            writer.kill()
            acknowledged += [json.loads(line) for line in writer.stdout if line.endswith("\n")]
        kept = set(PredictionLog(path).read_window().ids)
        assert {f"{attempt}-{number}" for number in acknowledged} <= kept
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
