"""What the watch remembers: the journal of windows, the rate of looking that follows from it, harmless states."""

from dataclasses import replace

import numpy as np
import pytest

from regraft.data.drift.config import MONTH_S
from regraft.data.drift.reference import Answers
from regraft.tasks.workspace.windows import (
    MOST_ANSWERS,
    MOST_STATES,
    JudgedWindow,
    keep_state,
    measure_rate,
    read_states,
    read_windows,
    record_audit,
    record_window,
)
from regraft.tasks.workspace.workspace import Workspace, init_workspace

WINDOW = JudgedWindow("v1", 5.0, 1.0, 4.0, 200, 180.0, "quiet", "none", 0.5, 0.001, 0.0, 0.95, "quiet", "As before.")


@pytest.fixture
def home(tmp_path) -> Workspace:
    return init_workspace(tmp_path / "w")


def make_answers(count: int, value: float = 0.5) -> Answers:
    return Answers(np.full((count, 3), value, np.float32), np.eye(2)[np.zeros(count, int)], np.ones((count, 4)))


def test_windows_come_back_in_order_each_once_and_by_version(home) -> None:
    for window in (WINDOW, WINDOW, replace(WINDOW, until=9.0), replace(WINDOW, version="v2")):
        record_window(home, window)
    assert [window.until for window in read_windows(home, "v1")] == [4.0, 9.0]
    assert read_windows(home, "v2") == [replace(WINDOW, version="v2")]
    with (home.state / "windows.jsonl").open("ab") as journal:
        journal.write(b'{"version": "v1", "at": 1')
    assert len(read_windows(home, "v1")) == 2
    record_window(home, replace(WINDOW, until=11.0))
    assert len(read_windows(home, "v1")) == 3


def test_the_rate_is_that_of_the_schedule_until_windows_show_another(home) -> None:
    assert measure_rate(home, "v1", 300.0) == pytest.approx(MONTH_S / 300)
    for hour in range(5):
        record_window(home, replace(WINDOW, until=3600.0 * hour))
    for killed in (1, 0):  # said twice, where the first time was killed before the alarm was closed
        record_audit(home, "v1", (0.0, 3600.0 * 4), 30, "closed", "No harm found.", at=3600.0 * 4 + 5 - killed)
    assert len(read_windows(home, "v1")) == 6
    assert measure_rate(home, "v1", 300.0) == pytest.approx(720)  # an audit is no window
    assert read_windows(home, "v1")[-1].n == 30
    assert measure_rate(home, "v1", 86_400.0) == pytest.approx(30)
    assert measure_rate(home, "v2", 300.0) == pytest.approx(MONTH_S / 300)


def test_the_newest_states_are_kept_whole_and_by_version(home) -> None:
    assert read_states(home, "v1") == []
    for number in range(MOST_STATES + 2):
        keep_state(home, "v1", 1000.0 + number, make_answers(5, number))
        keep_state(home, "v1", 1000.0 + number, make_answers(5, number))
    states = read_states(home, "v1")
    assert [state.embeddings[0, 0] for state in states] == [2, 3, 4, 5]
    assert (states[0].embeddings.shape, states[0].softmax.shape, states[0].quality.shape) == ((5, 3), (5, 2), (5, 4))
    assert read_states(home, "v2") == []
    keep_state(home, "v2", 1.0, make_answers(MOST_ANSWERS + 7))
    assert len(read_states(home, "v2")[0].quality) == MOST_ANSWERS
