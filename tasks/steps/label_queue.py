"""Which logged answers people are asked to label now: what was asked for and is not labelled yet, then new ones."""

from regraft.data.drift.alarm import Alarm
from regraft.data.labelling.feedback import choose_for_labelling, read_image
from regraft.serving.log.reader import read_window
from regraft.serving.log.requests import LabelRequest, ask_for_labels, read_requests
from regraft.tasks.settings.params import Params
from regraft.tasks.workspace.workspace import Workspace

REPEATS = 10
"""A window is looked for among this many times as many answers, because repeated images count once."""


def fill_queue(
    home: Workspace,
    champion: str,
    alarm: Alarm,
    count: int,
    labelled: set[str],
    params: Params,
    *,
    random_share: float,
) -> list[tuple[str, str]]:
    """Return ``count`` answers to label: those asked for and not labelled yet first, then new ones, recorded as asked.

    What was drawn at random once stays wanted: a sample that is drawn anew at each look is the sample of those who
    answer quickly.
    """
    asked = read_requests(home.predictions, champion, since=alarm.opened_at)
    waiting = [one for one in asked if not one.labelled and (random_share < 1 or one.why == "random")]
    kept = [one for one in waiting if read_image(home.images, one.image_sha256) is not None]
    queue: list[tuple[str, str]] = [(one.id, one.why) for one in kept[:count]]
    if len(queue) < count:
        limit = max(params.watch.window, params.retrain.min_labels, count)
        window = read_window(home.predictions, version=champion, since=alarm.began_at, limit=REPEATS * limit)
        fresh = choose_for_labelling(
            window.drop_repeated(limit),
            count - len(queue),
            seed=len(asked),
            labelled=labelled | {one.image_sha256 for one in asked},
            random_share=random_share,
            drawn_after=_last_choice(asked),
        )
        ask_for_labels(home.predictions, fresh)
        queue += fresh
    return queue


def _last_choice(asked: list[LabelRequest]) -> float | None:
    """Return when answers were chosen for their doubt last: what that left over of those before is no random sample."""
    return max((one.at for one in asked if one.why != "random"), default=None)
