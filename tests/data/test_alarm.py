"""The alarm between two looks at production: what opens it, what it asks for, what ends it."""

from dataclasses import dataclass, replace

from regraft.data.drift.alarm import Alarm
from regraft.data.drift.audit import judge_audit

LIMIT, QUIET = 5.0, 3


@dataclass(frozen=True)
class Verdict:
    """The part of a drift verdict that the alarm reads."""

    decision: str
    kind: str = "image"
    reason: str = "Images are darker."
    p_value: float = 0.5


def look(alarm: Alarm, decision: str, until: float, p_value: float | None = None) -> Alarm:
    """Return the alarm after one more window of ten seconds."""
    verdict = Verdict(decision, p_value=p_value or (1e-6 if decision == "drift" else 0.5))
    return alarm.advance(verdict, (until - 10, until), until + 1, limit=LIMIT, quiet_windows=QUIET)


def open_alarm() -> Alarm:
    return look(Alarm(), "drift", 10.0)


def audit(right: int, wrong: int):
    return judge_audit(right, wrong, 0.97, 0.15, step=10, most=30)


def test_a_quiet_window_opens_no_alarm_and_asks_for_nothing() -> None:
    alarm = look(Alarm(), "quiet", 10.0)
    assert not alarm.is_open
    assert alarm.decide(500, 100, 12.0, 60.0)[0] == "none"


def test_an_alarm_knows_when_its_change_began() -> None:
    assert (open_alarm().began_at, open_alarm().opened_at, open_alarm().kind) == (0.0, 11.0, "image")
    assert look(open_alarm(), "drift", 30.0).began_at == 0.0


def test_harm_asks_for_labels_until_there_are_enough() -> None:
    alarm = open_alarm().settle(audit(2, 8))
    assert alarm.harm and "8 of 10 audited answers are wrong" in alarm.reason
    assert alarm.decide(99, 100, 12.0, 60.0)[0] == "label"
    assert "1 more" in alarm.decide(99, 100, 12.0, 60.0)[1]
    assert alarm.decide(100, 100, 12.0, 60.0)[0] == "retrain"


def test_an_audit_without_harm_closes_the_alarm_and_every_suspicion() -> None:
    alarm = replace(open_alarm(), slow=4.0, quiet=1).settle(audit(28, 0))
    assert not alarm.is_open and alarm.slow == 0 and not alarm.harm
    assert "28 of 28 audited answers are right" in alarm.reason
    assert alarm.judged_until == 10.0  # what was judged is not judged again


def test_an_open_audit_changes_nothing() -> None:
    assert open_alarm().settle(audit(5, 0)) == open_alarm()


def test_a_retraining_is_called_for_once_per_cool_down() -> None:
    alarm = open_alarm().with_retrain(20.0)
    assert alarm.decide(100, 100, 79.9, 60.0)[0] == "none"
    assert alarm.decide(100, 100, 80.0, 60.0)[0] == "retrain"


def test_quiet_windows_in_a_row_close_an_alarm_because_the_change_is_gone() -> None:
    alarm = open_alarm()
    for number, decision in enumerate(("quiet", "quiet", "drift", "quiet", "quiet")):
        alarm = look(alarm, decision, 20.0 + 10 * number)
        assert alarm.is_open and alarm.opened_at == 11.0
    closed = look(alarm, "quiet", 80.0)
    assert not closed.is_open and "look as before" in closed.reason


def test_quiet_windows_do_not_close_an_alarm_that_did_harm() -> None:
    alarm = open_alarm().settle(audit(2, 8))
    for number in range(6):
        alarm = look(alarm, "quiet", 20.0 + 10 * number)
    assert alarm.is_open and alarm.harm


def test_small_suspicions_add_up_to_an_alarm_and_chance_takes_them_back() -> None:
    alarm = Alarm()
    for number in range(3):
        alarm = look(alarm, "quiet", 10.0 * number, p_value=0.01)
    assert not alarm.is_open and alarm.slow > 4
    assert look(alarm, "quiet", 40.0, p_value=0.9).slow < alarm.slow - 1
    slow = look(alarm, "quiet", 40.0, p_value=0.01)
    assert (slow.is_open, slow.kind) == (True, "slow") and "little by little" in slow.reason


def test_the_next_window_begins_after_the_last_prediction_that_was_judged() -> None:
    assert Alarm().after is None
    assert open_alarm().after > 10.0
    assert open_alarm().after - 10.0 < 1e-9


def test_the_alarm_survives_its_file() -> None:
    alarm = open_alarm().with_retrain(20.0)
    assert Alarm(**alarm.to_json()) == alarm
