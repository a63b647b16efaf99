"""The ledger of runs: one JSON line for each finished flow, with seconds per stage; never versioned."""

import json
import os
import time
from pathlib import Path
from typing import Any

from tasks.workspace import Workspace


def record_run(home: Workspace, flow: str, content: dict[str, Any]) -> Path:
    """Append ``content`` to the ledger and return the ledger's path."""
    path = home.state / "runs.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"flow": flow, "at": time.time(), **content}, sort_keys=True)
    with path.open("a") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())
    return path


def read_runs(home: Workspace) -> list[dict[str, Any]]:
    """Return the finished runs, oldest first; a line cut short by a crash is skipped."""
    path = home.state / "runs.jsonl"
    if not path.exists():
        return []
    runs = []
    for line in path.read_text().splitlines():
        try:
            runs.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return runs
