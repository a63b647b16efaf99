"""Step ``collect``: labelled production images become an immutable batch beside the user's data."""

from dataclasses import asdict, dataclass
from typing import Any

from regraft.data.dataset.manifest import read_manifest
from regraft.data.labelling.feedback import collect_feedback
from regraft.data.sources.sources import read_intake
from regraft.data.sources.tables import list_table
from regraft.serving.log.reader import FeedbackRow, read_feedback
from regraft.tasks.graph.prefect_step import step
from regraft.tasks.graph.train_report import TrainReport
from regraft.tasks.planning.intake import ORIGIN, add_batch
from regraft.tasks.settings.params import load_params
from regraft.tasks.workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Batch:
    """What production has taught so far; ``fresh`` counts labelled images that no earlier batch held."""

    path: str | None
    fresh: int
    needed: int
    sufficient: bool
    reason: str


@dataclass(frozen=True, slots=True)
class RetrainReport:
    """The outcome of a retraining; ``made`` is None when there were too few labels to learn from.

    ``batch`` is None when nothing was learned: a challenger that waited for its verdict was judged.
    """

    batch: Batch | None
    made: TrainReport | None

    @property
    def decision(self) -> str:
        return self.made.decision if self.made else "not enough labels"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able view."""
        made = self.made.to_json() if self.made else {}
        return {**made, "decision": self.decision, "batch": asdict(self.batch) if self.batch else None}


@step
def collect(home: Workspace, *, force: bool = False) -> Batch:
    """Write the labelled production images as a batch and add it to the sources, if there are enough new ones."""
    needed = 1 if force else load_params(home.params).retrain.min_labels
    fresh = read_fresh_labels(home)
    if len({row.image_sha256 for row in fresh}) < needed:
        return _refuse(len({row.image_sha256 for row in fresh}), needed, "")
    made = collect_feedback(fresh, home.images, home.feedback)
    lost = f"; the bytes of {len(made.missing)} more are no longer kept" if made.missing else ""
    if made.folder is None or made.images < needed:
        return _refuse(made.images, needed, lost)
    add_batch(home, made.folder, keep=learned_batches(home))
    return Batch(str(made.folder), made.images, needed, True, f"{made.images} new labelled images{lost}")


def _refuse(fresh: int, needed: int, lost: str) -> Batch:
    reason = f"{fresh} new labelled images, but a retraining needs {needed}; label {needed - fresh} more{lost}"
    return Batch(None, fresh, needed, False, reason)


def read_fresh_labels(home: Workspace, since: float | None = None) -> list[FeedbackRow]:
    """Return the labels of production images that no version has learned yet, in the order they came back.

    A label that says something else than what was learned of the same image is a correction, and fresh; so is one that
    contradicts the folder that the user gave.

    Args:
        home: The workspace.
        since: Only labels given at or after this time, in seconds since the epoch.
    """
    learned = _read_learned(home)
    return [row for row in read_feedback(home.predictions, since=since) if learned.get(row.image_sha256) != row.label]


def _read_learned(home: Workspace) -> dict[str, str]:
    """Return content hash -> label of every image that a version was made with.

    What the data set says counts most: in it a correction has overruled what an older batch said.
    """
    batches, learned = learned_batches(home), {}
    for manifest in (home.feedback / name / "manifest.csv" for name in sorted(batches)):
        if manifest.exists():
            learned |= {entry.file.stem: entry.label for entry in list_table(manifest).entries}
    if (home.dataset / "manifest.parquet").exists():
        rows = read_manifest(home.dataset, ["sha256", "source", "label"])
        held = rows[rows["source"].isin(batches | {ORIGIN})]
        learned |= dict(zip(held["sha256"], held["label"], strict=True))
    return learned


def learned_batches(home: Workspace) -> set[str]:
    """Return the names of the batches that a registered version was made with.

    A batch whose retraining was killed is not among them: its images are fresh still, and the next one takes them.
    """
    names: set[str] = set()
    for intake in home.lineage.glob("[!.]*/data/store/intake.json"):
        names |= {source.name for source in read_intake(intake)}
    return names
