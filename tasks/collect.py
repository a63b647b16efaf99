"""Step ``collect``: labelled production images become an immutable batch beside the user's data."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from filelock import FileLock, Timeout

from data.feedback import collect_feedback
from data.intake import read_intake
from serving.windows import read_feedback
from tasks.intake import add_batch
from tasks.params import load_params
from tasks.step import step
from tasks.summary import TrainReport
from tasks.workspace import Workspace


class RetrainBusy(RuntimeError):  # noqa: N818 - it is a state, not a fault
    """Another retraining of this workspace is under way."""


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
    """The outcome of a retraining; ``made`` is None when there were too few labels to learn from."""

    batch: Batch
    made: TrainReport | None

    @property
    def decision(self) -> str:
        return self.made.decision if self.made else "not enough labels"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able view."""
        made = self.made.to_json() if self.made else {}
        return {**made, "decision": self.decision, "batch": asdict(self.batch)}


@contextmanager
def hold_retrain_lock(home: Workspace) -> Iterator[None]:
    """Let one retraining of the workspace run at a time; the system frees the lock when its holder dies.

    Raises:
        RetrainBusy: If another one holds it.
    """
    home.state.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(home.state / "retrain.lock", timeout=0):
            yield
    except Timeout as error:
        raise RetrainBusy(
            f"a retraining of {home.root} is under way; look at it in the Prefect UI or wait for it"
        ) from error


@step
def collect(home: Workspace, *, force: bool = False) -> Batch:
    """Write the labelled production images as a batch and add it to the sources, if there are enough new ones."""
    config = load_params(home.params).retrain
    batches = learned_batches(home)
    learned = {path.stem for name in batches for path in (home.feedback / name).glob("*")}
    rows = read_feedback(home.predictions)
    fresh = {row.image_sha256 for row in rows} - learned
    needed = 1 if force else config.min_labels
    if len(fresh) < needed:
        reason = f"{len(fresh)} new labelled images, but a retraining needs {needed}; label {needed - len(fresh)} more"
        return Batch(None, len(fresh), needed, False, reason)
    made = collect_feedback(rows, home.images, home.feedback, skip=learned)
    if made.folder is None:
        return Batch(None, 0, needed, False, f"the bytes of {len(made.missing)} labelled images are no longer kept")
    add_batch(home, made.folder, keep=batches)
    lost = f"; the bytes of {len(made.missing)} more are no longer kept" if made.missing else ""
    return Batch(str(made.folder), made.images, needed, True, f"{made.images} new labelled images{lost}")


def learned_batches(home: Workspace) -> set[str]:
    """Return the names of the batches that a registered version was made with.

    A batch whose retraining was killed is not among them: its images are fresh still, and the next one takes them.
    """
    names: set[str] = set()
    for intake in home.lineage.glob("*/data/store/intake.json"):
        names |= {source.name for source in read_intake(intake)}
    return names
