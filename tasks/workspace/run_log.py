"""The ledger of runs: one JSON line for each finished flow, with seconds per stage; shared through the remote."""

import time
from pathlib import Path
from typing import Any

from regraft.serving.files.json_lines import append_lines, decode_lines, encode_line, read_lines
from regraft.tasks.workspace.workspace import Workspace


def record_run(home: Workspace, flow: str, content: dict[str, Any]) -> Path:
    """Append ``content`` to the ledger and return the ledger's path."""
    append_lines(home.runs, [encode_line({"flow": flow, "at": time.time(), **content})])
    return home.runs


def read_runs(home: Workspace) -> list[dict[str, Any]]:
    """Return the finished runs, also those of other copies of the workspace, oldest first; a torn line is skipped."""
    return sorted(decode_lines(read_lines(home.runs)), key=lambda run: run.get("at", 0.0))
