"""What the watch remembers of a version: every window it judged, and later images that an audit found to do no harm."""

import io
import itertools
import statistics
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from regraft.data.drift.config import MONTH_S
from regraft.data.drift.reference import Answers
from regraft.serving.files.durable import write_bytes
from regraft.serving.files.json_lines import append_chosen, decode_lines, encode_line, read_lines
from regraft.tasks.workspace.workspace import Workspace

RECENT = 50
"""Windows that the rate of looking is taken from."""
FEWEST = 3
"""Windows that show a rate of looking."""
MOST_STATES = 4
"""Later states of the images that are remembered, the newest; what is older has given way to retraining or is rare."""
MOST_ANSWERS = 2_000
"""Of one state."""
AUDIT = "audit"
"""Decision of a line that ends an audit."""


@dataclass(frozen=True, slots=True)
class JudgedWindow:
    """One line of the journal; times are seconds since the epoch.

    ``alarm`` says what became of the alarm: "quiet" or "open" as before, "opened" or "closed" by this window. ``slow``
    is the sum of small suspicions after it; ``told`` the independent images that its ``n`` are worth. A line whose
    ``decision`` is "audit" is no window but the end of an audit of ``n`` labels.
    """

    version: str
    at: float
    begin: float
    until: float
    n: int
    told: float
    decision: str
    kind: str
    p_value: float
    alpha: float
    slow: float
    estimated_accuracy: float | None
    alarm: str
    reason: str


FIELDS = {field.name for field in fields(JudgedWindow)}


def read_windows(home: Workspace, version: str) -> list[JudgedWindow]:
    """Return the windows of ``version`` that were judged, oldest first; a line cut short by a crash is skipped."""
    lines = decode_lines(read_lines(_journal(home)))
    return [JudgedWindow(**one) for one in lines if one.keys() == FIELDS and one["version"] == version]


def record_window(home: Workspace, window: JudgedWindow) -> None:
    """Append one line; a window that a killed look has recorded already is not recorded twice."""

    def choose(present: list[bytes]) -> list[bytes]:
        # An audit ends at the window that it settles: the two differ in what was decided.
        known = {(one.get("version"), one.get("until"), one.get("decision") == AUDIT) for one in decode_lines(present)}
        this = window.version, window.until, window.decision == AUDIT
        return [] if this in known else [encode_line(asdict(window))]

    append_chosen(_journal(home), choose)


def record_audit(
    home: Workspace, version: str, span: tuple[float, float], labels: int, alarm: str, reason: str, at: float
) -> None:
    """Append the end of an audit that rests on ``labels`` of the images of a ``span``; said again it is one line."""
    figures = {"p_value": 1.0, "alpha": 0.0, "slow": 0.0, "estimated_accuracy": None}
    told = {"n": labels, "told": float(labels), "decision": AUDIT, "kind": "none", "alarm": alarm, "reason": reason}
    record_window(home, JudgedWindow(version=version, at=at, begin=span[0], until=span[1], **figures, **told))


def measure_rate(home: Workspace, version: str, every_s: float) -> float:
    """Return about how many windows of ``version`` a month has: as often as one looks, and as traffic fills them."""
    windows = [window for window in read_windows(home, version) if window.decision != AUDIT]
    ends = [window.until for window in windows[-RECENT:]]
    gaps = [later - earlier for earlier, later in itertools.pairwise(ends)]
    return MONTH_S / max(every_s, statistics.median(gaps) if len(ends) >= FEWEST else 0.0)


def keep_state(home: Workspace, version: str, begin: float, answers: Answers) -> None:
    """Remember answers that began at ``begin`` and were found to do no harm; the same ones again change nothing."""
    buffer = io.BytesIO()
    rows = slice(-MOST_ANSWERS, None)
    np.savez_compressed(
        buffer, embeddings=answers.embeddings[rows], softmax=answers.softmax[rows], quality=answers.quality[rows]
    )
    folder = _states(home, version)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / f"{round(begin * 1000):015d}.npz", buffer.getvalue())
    for old in sorted(folder.glob("[0-9]*.npz"))[:-MOST_STATES]:
        old.unlink()


def read_states(home: Workspace, version: str) -> list[Answers]:
    """Return what was remembered of ``version``, oldest first."""
    found = []
    for path in sorted(_states(home, version).glob("[0-9]*.npz")):
        with np.load(path, allow_pickle=False) as stored:
            found.append(Answers(stored["embeddings"], stored["softmax"], stored["quality"]))
    return found


def _journal(home: Workspace) -> Path:
    return home.state / "windows.jsonl"


def _states(home: Workspace, version: str) -> Path:
    return home.state / "watch" / version
