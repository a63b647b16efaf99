"""The list of runs can be read: a run is called after what happened in it."""

from types import SimpleNamespace

import pytest

from regraft.flows.errors.exit_codes import Outcome
from regraft.flows.server.naming import LONGEST, name_result, name_stop


def made(decision: str, gate: str) -> SimpleNamespace:
    promoted = decision == "promoted"
    return SimpleNamespace(version="3f9a21c0ffee", decision=decision, promoted=promoted, gate={"decision": gate})


@pytest.mark.parametrize(
    ("flow", "result", "name"),
    [
        ("train", made("promoted", "promote"), "train: promoted 3f9a21"),
        ("train", made("kept champion", "keep"), "train: kept, not 3f9a21"),
        ("train", made("kept champion", "undecided"), "train: undecided, 3f9a21 waits"),
        ("retrain", SimpleNamespace(made=made("promoted", "promote")), "retrain: promoted 3f9a21"),
        ("retrain", SimpleNamespace(made=None, decision="not enough labels"), "retrain: not enough labels"),
        ("watch", SimpleNamespace(verdict={"decision": "quiet"}, action="none"), "watch: quiet"),
        ("watch", SimpleNamespace(verdict={"decision": "drift"}, action="label"), "watch: drift, wants labels"),
    ],
)
def test_a_run_that_came_to_its_end_is_called_after_its_result(flow: str, result: object, name: str) -> None:
    assert name_result(flow, result) == name


@pytest.mark.parametrize(
    ("outcome", "name"),
    [
        (Outcome(3, "2 of 11 expectations failed\n  more", False), "train: stopped, 2 of 11 expectations failed"),
        (Outcome(2, "no images at /x", False), "train: bad input, no images at /x"),
        (Outcome(4, "another train of w is under way", False), "train: busy, another train of w is under way"),
        (Outcome(1, "the disk is full", False), "train: could not, the disk is full"),
        (Outcome(1, "TypeError: x", True), "train: fault, TypeError: x"),
    ],
)
def test_a_run_that_stopped_is_called_after_the_first_line_of_the_reason(outcome: Outcome, name: str) -> None:
    assert name_stop("train", outcome) == name


def test_a_name_stays_a_name() -> None:
    assert len(name_stop("train", Outcome(2, "x" * 500, False))) == LONGEST
