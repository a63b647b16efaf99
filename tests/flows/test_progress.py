"""What a waiting person is shown: little, and nothing that a file or a pipe would be full of."""

import io
import logging
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from regraft.tasks.graph import progress
from regraft.tasks.graph.progress import show_progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal and remembers each write."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_few_updates_a_second_however_often_there_is_progress(monkeypatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "REDRAW_S", 0.05)
    started = time.monotonic()
    with show_progress("fine-tuning") as told:
        while time.monotonic() - started < 0.5:
            told(int(1000 * (time.monotonic() - started)), 1000)
            time.sleep(0.0002)
    written = terminal.getvalue()
    updates = written.count("\r")
    assert 2 <= updates <= (time.monotonic() - started) / 0.05 + 2
    assert len(written) <= 140 * updates
    assert "\n" not in written
    assert written.endswith("\x1b[K\r")  # the line is left empty


def test_a_bar_that_would_look_the_same_is_not_drawn_again(monkeypatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "REDRAW_S", 0.01)
    monkeypatch.setattr(progress._Bar, "_describe", lambda self: "as before")
    with show_progress("waiting"):
        time.sleep(0.2)
    assert terminal.getvalue().count("as before") == 1


@pytest.mark.parametrize("terminal", [False, True])
def test_without_a_terminal_nothing_is_drawn_and_a_line_comes_now_and_then(monkeypatch, caplog, terminal: bool) -> None:
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(progress, "QUIET_INTERVAL_S", 0.1)
    monkeypatch.setattr(logging.getLogger("regraft"), "propagate", True)
    started = time.monotonic()
    with caplog.at_level(logging.INFO, "regraft"), show_progress("fine-tuning") as told:
        while time.monotonic() - started < 0.35:
            told(1, 2)
    assert 1 <= len(caplog.records) <= 4
    assert stream.getvalue() == ""


def test_a_training_says_that_it_has_begun_before_anything_heavy_is_imported(make_workspace, images) -> None:
    command = [sys.executable, "-X", "importtime", str(Path(sys.executable).with_name("regraft")), "train"]
    command += ["--workspace", str(make_workspace("beginning").root), "--data", str(images)]
    heavy = re.compile(r"\| +(torch|prefect|dvc|pandas|sklearn|great_expectations)$")
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        lines = (line.rstrip() for line in process.stderr)
        first = next(line for line in lines if "loading what it needs" in line or heavy.search(line))
        later = next(line for line in lines if heavy.search(line))
        process.kill()
    assert "loading what it needs" in first
    assert heavy.search(later)
