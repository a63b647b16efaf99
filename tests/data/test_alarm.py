"""The alarm between two looks at production: what opens it, what it asks for, what ends it."""

from dataclasses import dataclass

from regraft.data.drift.alarm import Alarm


@dataclass(frozen=True)
class Verdict:
    """The part of a drift verdict that the alarm reads."""

    decision: str
    kind: str = "image"
    reason: str = "Images are darker."


def open_alarm() -> Alarm:
    return Alarm().advance(Verdict("drift"), 10.0, now=11.0)


def test_a_quiet_window_opens_no_alarm_and_asks_for_nothing() -> None:
    alarm = Alarm().advance(Verdict("quiet"), 10.0, now=11.0)
    assert not alarm.is_open
    assert alarm.decide(500, 100, 12.0, 60.0)[0] == "none"


def test_drift_asks_for_labels_until_there_are_enough() -> None:
    alarm = open_alarm()
    assert alarm.decide(99, 100, 12.0, 60.0)[0] == "label"
    assert "1 more" in alarm.decide(99, 100, 12.0, 60.0)[1]
    assert alarm.decide(100, 100, 12.0, 60.0)[0] == "retrain"


def test_a_retraining_is_called_for_once_per_cool_down() -> None:
    alarm = open_alarm().with_retrain(20.0)
    assert alarm.decide(100, 100, 79.9, 60.0)[0] == "none"
    assert alarm.decide(100, 100, 80.0, 60.0)[0] == "retrain"


def test_a_quiet_window_does_not_close_an_open_alarm() -> None:
    alarm = open_alarm().advance(Verdict("quiet"), 20.0, now=21.0)
    assert alarm.is_open
    assert alarm.opened_at == 11.0
    assert alarm.judged_until == 20.0


def test_the_next_window_begins_after_the_last_prediction_that_was_judged() -> None:
    assert Alarm().after is None
    assert open_alarm().after > 10.0
    assert open_alarm().after - 10.0 < 1e-9


def test_the_alarm_survives_its_file() -> None:
    alarm = open_alarm().with_retrain(20.0)
    assert Alarm(**alarm.to_json()) == alarm
