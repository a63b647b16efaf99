"""What enters the graph: the list of sources, and the rows whose part of the split is already decided."""

import io
import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from regraft.data.sources.layout import Layout
from regraft.data.sources.sources import Source, write_intake
from regraft.data.split.split import read_split
from regraft.data.validation.classes import check_lost, list_lost
from regraft.serving.files.durable import write_bytes
from regraft.tasks.planning.sources import ORIGIN as ORIGIN
from regraft.tasks.planning.sources import keep_source, list_known, look_again, read_champion, scan_batch, scan_origin
from regraft.tasks.workspace.workspace import Workspace

logger = logging.getLogger(__name__)


def take_in(home: Workspace, path: Path, layout: Layout | None = None, allow_lost: Collection[str] = ()) -> None:
    """Make ``path`` the workspace's origin; batches of labelled production images stay, see ``settle_batches``.

    Args:
        home: The workspace.
        path: A folder or manifest.
        layout: What the user says about how to read it; what was said before of the same path still holds.
        allow_lost: Classes that may be lost, by name.

    Raises:
        IntakeError: If it cannot be read, can be read in two ways, or a class would be lost; nothing is changed then.
    """
    origin = scan_origin(home, path.expanduser().resolve(), layout or Layout())
    batches = [look_again(home, source) for source in list_known(home) if source.name != ORIGIN]
    _update(home, settle_batches([origin, *batches]), allow_lost)


def rescan(home: Workspace, layout: Layout | None = None, allow_lost: Collection[str] = ()) -> None:
    """Look at the known sources again, so that images added to the user's folder are noticed.

    A source that is not there any more goes on with what the data set holds of it, and that is said.

    Raises:
        IntakeError: As ``take_in``.
    """
    if home.intake.exists():
        _update(home, settle_batches([look_again(home, source, layout) for source in list_known(home)]), allow_lost)


def add_batch(home: Workspace, batch: Path, *, keep: set[str]) -> None:
    """Add a folder of labelled production images to the sources; adding it again changes nothing.

    What the data set holds of the other sources stays, whatever became of their files: nobody watches a retraining.
    Files that are new in them are read.

    Args:
        home: The workspace.
        batch: The folder that ``collect_feedback`` wrote.
        keep: Earlier batches that stay; one that no version was made with is superseded by this one.
    """
    others = [source for source in list_known(home) if source.name == ORIGIN or source.name in keep - {batch.name}]
    kept = [keep_source(home, source) for source in others]
    _update(home, settle_batches([*kept, scan_batch(home, batch.name)]))


def settle_batches(sources: list[Source]) -> list[Source]:
    """Return the sources, batches without the classes that the origin has not, and say at the origin what that means.

    A batch itself always stays known: its images come back with their class, and its other labels are never lost.
    """
    origin = next((source for source in sources if source.name == ORIGIN), None)
    if origin is None:
        return sources
    known, notes, settled = {*origin.labels, *origin.empty}, [], []
    for source in sources:
        without = () if source is origin else tuple(sorted({*source.labels, *source.without} - known))
        labels = tuple(sorted({*source.labels, *source.without} - set(without)))
        settled.append(source if source is origin else replace(source, labels=labels, without=without))
        if without:
            notes.append(
                f"labelled production images of batch {source.name} are passed over for now: "
                f"the data have no class {', '.join(without)}"
            )
    for note in notes:
        logger.warning("%s", note)
    return [replace(one, notes=tuple(notes)) if one.name == ORIGIN else one for one in settled]


def _update(home: Workspace, sources: list[Source], allow_lost: Collection[str] = ()) -> None:
    """Write the sources if they changed, unless a class would be lost that nobody allowed to be.

    Raises:
        LostClassError: If so; nothing is written.
    """
    known = list_known(home)
    labels = _list_labels(sources)
    wanted = {label: why for source in sources for label, why in source.empty.items()}
    champion = dict.fromkeys(read_champion(home), "the champion knows it, the data do not")
    lost = list_lost(champion | wanted, labels)
    recorded = {label for source in known for label in source.allowed}
    # A permission ends when the class was seen again, so that its next loss is asked about.
    seen = recorded & _list_labels(known) & set(_read_dataset_labels(home))
    held = (recorded - seen) | set(allow_lost)
    check_lost(", ".join(str(source.path) for source in sources), lost, held)
    for label in sorted(held & lost.keys()):
        logger.warning("without the class %s, as allowed: %s", label, lost[label])
    meant = {*lost, *labels}
    if _allow(sources, recorded | set(allow_lost) & meant) != known:
        # Decided first: killed between the two writes, the next call writes the same again.
        write_bytes(home.frozen, _decided(home))
        write_intake(home.intake, _allow(sources, held & meant))


def _list_labels(sources: list[Source]) -> set[str]:
    return {label for source in sources for label in source.labels}


def _allow(sources: list[Source], labels: Collection[str]) -> list[Source]:
    """Return the sources with the allowed losses at the first of them."""
    return [replace(one, allowed=tuple(sorted(labels)) if number == 0 else ()) for number, one in enumerate(sources)]


def _read_dataset_labels(home: Workspace) -> Mapping[str, int]:
    """Return the images of each label in the dataset that was ingested last; none before the first one."""
    path = home.dataset / "summary.json"
    return json.loads(path.read_text())["labels"] if path.exists() else {}


def _decided(home: Workspace) -> bytes:
    decided = [pd.read_csv(home.frozen, dtype=str)]
    if home.split.exists():
        decided.append(read_split(home.split)[["sha256", "part"]])
    rows = pd.concat(decided).drop_duplicates("sha256", keep="last").sort_values("sha256")
    buffer = io.StringIO()
    rows.to_csv(buffer, index=False, lineterminator="\n")
    return buffer.getvalue().encode()
