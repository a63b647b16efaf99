"""What the gate said, and of which images: one JSON line for each judgement, so that looks are counted and nothing is
judged twice on the same images.
"""

from dataclasses import asdict, dataclass, fields, replace

from regraft.serving.files.json_lines import append_lines, decode_lines, encode_line, read_lines
from regraft.tasks.workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Judgement:
    """One verdict on ``version`` against ``champion``; ``sample`` is a hash of the images and of the gate's settings.

    ``look`` counts from 1, ``n`` are the images that decided, ``extra`` those of them that no version has
    learned from, ``needed`` about how many more would settle it; ``at`` is in Unix seconds.
    """

    version: str
    champion: str | None
    at: float
    look: int
    decision: str
    reason: str
    n: int
    extra: int
    needed: int | None
    sample: str


FIELDS = {field.name for field in fields(Judgement)}


def read_judgements(home: Workspace) -> list[Judgement]:
    """Return every judgement, oldest first; a line cut short by a crash is skipped, the judging is done again then."""
    return [Judgement(**one) for one in decode_lines(read_lines(home.judgements)) if one.keys() == FIELDS]


def record_judgement(home: Workspace, judgement: Judgement) -> None:
    """Append one line and sync it, on a line of its own also behind one that a crash cut short; no line twice."""
    if judgement in [replace(one, at=judgement.at) for one in read_judgements(home)]:
        return
    append_lines(home.judgements, [encode_line(asdict(judgement))])


def count_look(home: Workspace, version: str, champion: str, sample: str) -> int:
    """Return which look at ``version`` beside ``champion`` this is; the same images once more are no further look."""
    seen = [one for one in read_judgements(home) if (one.version, one.champion) == (version, champion)]
    known = {one.sample: one.look for one in seen}
    return known.get(sample, 1 + max(known.values(), default=0))


def count_judged(home: Workspace, but: str | None = None) -> int:
    """Return how many versions, ``but`` one, the test part has judged: each wears its independence down a little.

    Registered versions are among them, also those of before judgements were kept.
    """
    registered = {folder.name for folder in (home.models_store / "versions").glob("[!.]*") if folder.is_dir()}
    return len((registered | {one.version for one in read_judgements(home)}) - {but})


def find_undecided(home: Workspace, challenger: str | None, champion: str | None) -> Judgement | None:
    """Return the last judgement on the challenger if it was undecided and of the champion of today."""
    last = [one for one in read_judgements(home) if (one.version, one.champion) == (challenger, champion)]
    return last[-1] if last and last[-1].decision == "undecided" else None
