"""The alarm of each version, kept in the workspace between two looks at production."""

import json
from typing import Any

from regraft.data.drift.alarm import Alarm
from regraft.serving.files.durable import write_json
from regraft.tasks.workspace.workspace import Workspace


def read_alarm(home: Workspace, version: str) -> Alarm:
    """Return the state of the alarm of ``version``; each has its own, so that a rollback finds it again."""
    return Alarm(**_read_alarms(home).get(version, {}))


def write_alarm(home: Workspace, version: str, alarm: Alarm) -> None:
    """Keep the state of the alarm of ``version`` for the next look."""
    write_json(home.state / "alarms.json", _read_alarms(home) | {version: alarm.to_json()})


def _read_alarms(home: Workspace) -> dict[str, Any]:
    path = home.state / "alarms.json"
    return json.loads(path.read_text()) if path.exists() else {}
