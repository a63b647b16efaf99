"""A line counts once its newline is there, and a torn one spoils no other."""

import errno
import os
import threading

import pytest

from regraft.serving.files.durable import StorageError, write_bytes
from regraft.serving.files.json_lines import append_lines, decode_lines, encode_line, read_lines


def test_a_torn_line_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "deep" / "l.jsonl"
    append_lines(path, [encode_line({"n": 1})])
    with path.open("ab") as file:
        file.write(b'{"n": 2, "cut')
    assert decode_lines(read_lines(path)) == [{"n": 1}]
    append_lines(path, [encode_line({"n": 3}), encode_line({"n": 4})])
    assert decode_lines(read_lines(path)) == [{"n": 1}, {"n": 3}, {"n": 4}]


def test_a_line_that_lost_only_its_end_keeps_its_content(tmp_path):
    path = tmp_path / "l.jsonl"
    path.write_bytes(b'{"n": 1}')
    append_lines(path, [encode_line({"n": 2})])
    assert decode_lines(read_lines(path)) == [{"n": 1}, {"n": 2}]


def test_many_writers_lose_no_line(tmp_path):
    path = tmp_path / "l.jsonl"
    threads = [
        threading.Thread(target=lambda w=w: [append_lines(path, [encode_line([w, n])]) for n in range(20)])
        for w in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(read_lines(path))) == 80


def test_what_is_no_object_is_left_out(tmp_path):
    path = tmp_path / "l.jsonl"
    path.write_bytes(b'[1]\nnull\n\xff\n{"a": 1}\n')
    assert decode_lines(read_lines(path)) == [{"a": 1}]


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, r"disk is full.*report\.json.*1\.0 MiB were needed"), (errno.EROFS, r"report\.json could not be")],
)
def test_a_disk_that_takes_nothing_is_named_with_what_was_needed(tmp_path, monkeypatch, number, said):
    path = tmp_path / "report.json"
    path.write_bytes(b"old")

    def refuse(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(StorageError, match=said):
        write_bytes(path, bytes(2**20))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
