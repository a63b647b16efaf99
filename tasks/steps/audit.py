"""Step under the watch: what random labels say of an open alarm, and what is remembered where they find no harm."""

from regraft.data.drift.alarm import Alarm
from regraft.data.drift.audit import Audit, judge_audit
from regraft.data.drift.config import WatchConfig
from regraft.data.drift.reference import Answers, read_reference
from regraft.serving.log.reader import read_feedback, read_window
from regraft.tasks.workspace.windows import MOST_ANSWERS, keep_state
from regraft.tasks.workspace.workspace import Workspace


def audit_alarm(home: Workspace, champion: str, alarm: Alarm, config: WatchConfig) -> Audit:
    """Return what the labels of images drawn at random since the alarm opened say of the champion's answers."""
    hits = {
        row.image_sha256: row.label == row.predicted
        for row in read_feedback(home.predictions, version=champion)
        if row.sampling == "random" and row.asked_at is not None and row.asked_at >= (alarm.opened_at or 0.0)
    }
    right = sum(hits.values())
    accuracy = read_reference(home.models_store / "versions" / champion / "reference.npz").accuracy
    sizes = {"step": config.audit_step, "most": config.audit_most}
    return judge_audit(right, len(hits) - right, accuracy, config.audited_drop, **sizes)


def keep_harmless(home: Workspace, champion: str, alarm: Alarm) -> None:
    """Remember the images since an alarm began, as far as they were judged, as ones that do no harm."""
    answers = read_window(home.predictions, version=champion, since=alarm.began_at, limit=MOST_ANSWERS)
    judged = answers.at <= (alarm.judged_until or 0.0)
    found = Answers(answers.embeddings[judged], answers.probabilities[judged], answers.quality[judged])
    keep_state(home, champion, alarm.began_at or 0.0, found)
