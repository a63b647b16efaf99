import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from pydantic import ValidationError

from regraft.models.prior.run_history import (
    Descriptors,
    Recipe,
    RunRecord,
    TrackRecordError,
    append_record,
    rate_by_record,
    read_records,
    weigh_datasets,
)


def describe(**changes):
    plain = {
        "n_train": 400,
        "classes": 5,
        "imbalance": 1.5,
        "grey_share": 0.0,
        "median_side_px": 300,
        "mean_aspect": 1.3,
    }
    return Descriptors(**plain | changes)


def make_record(candidate="a.in1k", dataset=1, score=0.8, kept="probe", budget=0, size_px=224, **changes):
    return RunRecord(
        dataset=f"{dataset:064x}",
        labels=f"{dataset:064x}",
        descriptors=describe(**changes),
        candidate=candidate,
        weights="f" * 64,
        recipe=Recipe(kept=kept, budget=budget, size_px=size_px),
        score=score,
        n=100,
    )


def test_records_come_back_in_order(tmp_path):
    path = tmp_path / "new" / "record.jsonl"
    assert read_records(path) == []
    records = [make_record(name, embedding=(0.1, -2.5)) for name in ("b.in1k", "a.in1k", "c.größe")]
    assert [append_record(path, record) for record in records] == [True] * 3
    assert read_records(path) == records
    assert len(path.read_bytes().splitlines()) == 3


def test_a_run_is_stored_once(tmp_path):
    path = tmp_path / "record.jsonl"
    assert append_record(path, make_record())
    before = path.read_bytes()
    assert not append_record(path, make_record(score=0.9))
    assert path.read_bytes() == before
    for other in (make_record("b.in1k"), make_record(dataset=2), make_record(size_px=192), make_record(budget=9)):
        assert append_record(path, other)


@pytest.mark.parametrize("cut", [1, 40, -2])
def test_a_torn_last_line_is_skipped_and_then_removed(tmp_path, caplog, cut):
    path = tmp_path / "record.jsonl"
    for name in ("a.in1k", "b.in1k"):
        append_record(path, make_record(name))
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:cut])
    with caplog.at_level(logging.WARNING):
        assert [record.candidate for record in read_records(path)] == ["a.in1k"]
    assert "torn last line skipped path=record.jsonl line=2" in caplog.text
    assert append_record(path, make_record("b.in1k"))
    assert path.read_bytes() == first + second


def test_a_last_line_without_its_end_keeps_its_content(tmp_path):
    path = tmp_path / "record.jsonl"
    append_record(path, make_record("a.in1k"))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert not append_record(path, make_record("a.in1k"))
    assert append_record(path, make_record("b.in1k"))
    assert [record.candidate for record in read_records(path)] == ["a.in1k", "b.in1k"]


@pytest.mark.parametrize("broken", ["{", "", '{"format": 2}', "null"])
def test_a_broken_line_in_the_middle_is_named_and_nothing_is_written(tmp_path, broken):
    path = tmp_path / "record.jsonl"
    for name in ("a.in1k", "b.in1k"):
        append_record(path, make_record(name))
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{broken}\n{second}\n")
    before = path.read_bytes()
    with pytest.raises(TrackRecordError, match=r"record.jsonl line 2 is not a run record .*delete that line"):
        read_records(path)
    with pytest.raises(TrackRecordError, match="line 2"):
        append_record(path, make_record("c.in1k"))
    assert path.read_bytes() == before


WRITER = """
import sys
from pathlib import Path
from regraft.models.prior.run_history import RunRecord, append_record
path, record = Path(sys.argv[1]), RunRecord.model_validate_json(sys.argv[2])
for number in range(10**9):
    append_record(path, record.model_copy(update={"candidate": f"x{number}"}))
"""


def test_writers_at_once_lose_nothing_and_store_nothing_twice(tmp_path):
    path, start = tmp_path / "record.jsonl", threading.Barrier(4)

    def write(prefix):
        start.wait()
        return [append_record(path, make_record(f"{prefix}{number}")) for number in range(15)]

    with ThreadPoolExecutor(4) as pool:
        stored = list(pool.map(write, "xxyy"))
    names = [record.candidate for record in read_records(path)]
    assert sorted(names) == sorted(f"{prefix}{number}" for prefix in "xy" for number in range(15))
    assert sum(map(sum, stored)) == 30


def test_a_writer_waits_for_the_lock(tmp_path):
    path = tmp_path / "record.jsonl"
    append_record(path, make_record("a.in1k"))
    writer = threading.Thread(target=append_record, args=(path, make_record("b.in1k")))
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        writer.start()
        writer.join(0.2)
        assert writer.is_alive()
        assert len(path.read_bytes().splitlines()) == 1
    writer.join()
    assert len(read_records(path)) == 2


def test_a_killed_writer_leaves_whole_records(tmp_path):
    path = tmp_path / "record.jsonl"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path), make_record().model_dump_json()])
    while not path.exists() or path.stat().st_size < 2000:
        assert writer.poll() is None
        time.sleep(0.001)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    names = [record.candidate for record in read_records(path)]
    assert names == [f"x{number}" for number in range(len(names))]
    assert append_record(path, make_record("after.in1k"))  # the lock died with its holder


@pytest.mark.parametrize("change", [{"score": 1.2}, {"score": float("nan")}, {"dataset": "abc"}, {"typo": 1}])
def test_what_is_no_record_is_refused(change):
    with pytest.raises(ValidationError):
        RunRecord.model_validate(make_record().model_dump() | change)


def test_a_complete_table_gives_means_of_centred_results():
    table = {1: {"a": 0.9, "b": 0.7, "c": 0.5}, 2: {"a": 0.4, "b": 0.5, "c": 0.3}}
    records = [make_record(name, dataset, score) for dataset, row in table.items() for name, score in row.items()]
    rates = rate_by_record(records, describe(), ["a", "b", "c", "new"], None)
    centred = {name: np.mean([row[name] - np.mean(list(row.values())) for row in table.values()]) for name in "abc"}
    assert rates == pytest.approx(centred | {"new": None})


def test_strong_company_is_not_held_against_a_finalist():
    level = {"a": 0.9, "b": 0.8, "c": 0.3, "d": 0.2}
    records = [make_record(name, score=score) for name, score in level.items()]
    records += [make_record(name, score=level[name] + 0.05, kept="finetuned", budget=500) for name in "ab"]
    rates = rate_by_record(records, describe(), list("abcd"), None)
    assert rates == pytest.approx({name: score - np.mean(list(level.values())) for name, score in level.items()})


def test_a_data_set_counts_once_however_often_it_was_compared_on():
    records = [make_record(name, 1, score) for name, score in (("a", 0.9), ("b", 0.7))]
    records += [make_record(name, 1, score, "finetuned", 500) for name, score in (("a", 0.9), ("b", 0.7))]
    records += [make_record(name, 2, score) for name, score in (("a", 0.5), ("b", 0.7))]
    assert rate_by_record(records, describe(), ["a", "b"], None) == pytest.approx({"a": 0, "b": 0})


def test_similar_data_sets_weigh_more():
    near, far = {"n_train": 400}, {"n_train": 40_000, "classes": 300, "median_side_px": 32}
    records = [make_record(name, 1, score, **near) for name, score in (("a", 0.9), ("b", 0.7))]
    records += [make_record(name, 2, score, **far) for name, score in (("a", 0.5), ("b", 0.7))]
    alike, unlike = (rate_by_record(records, describe(**each), ["a", "b"], None) for each in (near, far))
    assert alike["a"] > 0.02 > -0.02 > unlike["a"]
    weights = weigh_datasets(describe(**near), [describe(**near), describe(**far)])
    assert weights[0] == 1
    assert 0 < weights[1] < 0.5


def test_embeddings_tell_apart_what_numbers_do_not():
    others = [describe(embedding=(1, 0.1)), describe(embedding=(0.1, 1))]
    first, second = weigh_datasets(describe(embedding=(1, 0)), others)
    assert first > second
    blind = [others[0], describe()]
    assert weigh_datasets(describe(embedding=(1, 0)), blind).tolist() == [1, 1]


def test_a_data_set_is_never_judged_by_itself():
    records = [make_record(name, 1, score) for name, score in (("a", 0.9), ("b", 0.1))]
    records += [make_record(name, 2, score) for name, score in (("a", 0.4), ("b", 0.6))]
    others = rate_by_record(records[2:], describe(), ["a", "b"], None)
    assert rate_by_record(records, describe(), ["a", "b"], f"{1:064x}") == others
    assert others == pytest.approx({"a": -0.1, "b": 0.1})
    assert rate_by_record(records[:2], describe(), ["a", "b"], f"{1:064x}") == {"a": None, "b": None}


def test_one_candidate_alone_says_nothing():
    records = [make_record("a", 1, 0.9), make_record("b", 2, 0.5), make_record("a", 2, 0.6, kept="finetuned", budget=9)]
    assert rate_by_record(records, describe(), ["a", "b"], None) == {"a": None, "b": None}


def test_of_several_sizes_a_candidate_counts_with_its_best():
    records = [make_record("a", score=0.6, size_px=160), make_record("a", score=0.8), make_record("b", score=0.7)]
    for order in (records, records[::-1]):
        assert rate_by_record(order, describe(), ["a"], None) == {"a": pytest.approx(0.05)}
