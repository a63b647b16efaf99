"""Close the loop after an alarm: label what is asked for, retrain, and go on while the verdict is undecided."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from regraft.flows.demo.plant import Plant
from regraft.flows.driver import run_flow
from regraft.flows.server.following import now
from regraft.tasks.workspace.judgements import Judgement, read_judgements
from regraft.tasks.workspace.workspace import Workspace

PER_CLASS = 20
"""Images of each class that the line goes on to produce when more are to be labelled than it has sent."""


class LoopStuck(RuntimeError):  # noqa: N818 - it is what happened
    """The loop asks for nothing although nothing is settled; the message says what it waits for."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Closed:
    """How the loop ended: the last judgement, and how many labels it took."""

    judgement: Judgement
    labels: int

    @property
    def promoted(self) -> bool:
        return self.judgement.decision == "promote"


def close_loop(
    home: Workspace, plant: Plant, retrain: Callable[[datetime], object], tell: Callable[[str], None]
) -> Closed:
    """Follow the watch until a challenger is promoted or refused.

    Args:
        home: A workspace with a champion whose alarm is open, or about to open.
        plant: Produces images and labels those that are asked for.
        retrain: Lets the retrain flow run after the watch has called for it, and returns when it has ended; gets the
            moment before the call.
        tell: Gets one line for each thing that happens.

    Raises:
        LoopStuck: If the watch wants nothing more.
    """
    labels = 0
    while True:
        since = now()
        report = run_flow(home, "watch")
        if report.action in ("audit", "label"):
            if report.queue:
                labels += plant.inspect(report.queue)
                drawn = sum(row["why"] == "random" for row in report.queue)
                tell(f"the inspector labels {len(report.queue)} images, {drawn} of them drawn at random")
            else:
                plant.send(PER_CLASS)  # the line goes on
        elif report.action in ("retrain", "judge"):
            tell(f"drift event sent: {report.action}. {report.reason}")
            retrain(since)
            judgement = read_judgements(home)[-1]
            tell(f"gate, look {judgement.look}: {judgement.decision}. {judgement.reason}")
            if judgement.decision != "undecided":
                return Closed(judgement, labels)
        else:
            raise LoopStuck(f"the watch wants nothing, and nothing is settled: {report.reason}")
