"""The sources of a workspace as they are now, or as the data set holds them where they are gone."""

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

import yaml

from regraft.data.dataset.stored import STORED, find_lost, find_stored
from regraft.data.sources.entries import IntakeError
from regraft.data.sources.layout import Layout, LayoutQuestion
from regraft.data.sources.sources import Source, list_source, read_intake, scan_source
from regraft.data.sources.spelling import SpellingQuestion
from regraft.serving.bundle.format import open_bundle
from regraft.serving.registry.registry import Registry
from regraft.tasks.workspace.workspace import Workspace

logger = logging.getLogger(__name__)

ORIGIN = "origin"
"""Name of the source that the user gave; batches of feedback are named by their hash."""


def list_known(home: Workspace) -> list[Source]:
    """Return the sources that the workspace learned from last; none before the first time."""
    return read_intake(home.intake) if home.intake.exists() else []


def scan_origin(home: Workspace, path: Path, asked: Layout) -> Source:
    """Return the origin, read as the user says now, else as was said before, else as it was read before.

    Raises:
        LayoutQuestion, SpellingQuestion: If nobody has said it, and no version was made of the one reading.
    """
    before = next((one for one in list_known(home) if one.name == ORIGIN and one.path == path), None)
    layout = asked.over(before.layout) if before else asked
    champion = read_champion(home)
    try:
        origin = scan_source(path, ORIGIN, layout, champion)
    except (LayoutQuestion, SpellingQuestion) as question:
        layout = _answer_as_before(question, layout, before)
        origin = scan_source(path, ORIGIN, layout, champion)
    return origin


def scan_batch(home: Workspace, name: str) -> Source:
    """Return a batch of labelled production images; its labels are those of a model, so none is asked about."""
    # By its name, not by a stored path: the workspace may have been moved since.
    return scan_source(home.feedback / name / "manifest.csv", name, Layout(alike="apart"))


def look_again(home: Workspace, source: Source, asked: Layout | None = None) -> Source:
    """Return the source as it is now, or as the data set holds it where nothing is at its place any more.

    Raises:
        IntakeError: If it is gone and the data set does not hold it either, or it cannot be taken in as it is now.
    """
    place = _place(home, source)
    if place.exists() or not (stored := find_stored(home.dataset, source)):
        return scan_origin(home, place, asked or Layout()) if source.name == ORIGIN else scan_batch(home, source.name)
    if source.name == ORIGIN:
        logger.warning("%s is not there; going on with the %d files of it in the data set", place, stored.files)
    return stored


def keep_source(home: Workspace, source: Source) -> Source:
    """Return the source as it is now, if it still gives all that the data set holds of it; else as that holds it."""
    stored = find_stored(home.dataset, source)
    if stored is None or not (source.kind == STORED or _is_read(home)):
        return look_again(home, source)
    place = _place(home, source)
    try:
        lost = find_lost(home.dataset, source, list_source(place, source.layout))
        if not lost:
            return look_again(home, source)
        why = f"{len(lost)} of {stored.files} files are not in {place} any more, the first is {lost[0]}"
    except (IntakeError, OSError) as error:
        why = str(error).splitlines()[0]
    if source.name == ORIGIN:
        logger.warning("%s; going on with the data set. regraft train follows the folder again", why)
    return stored


def read_champion(home: Workspace) -> list[str]:
    """Return the labels of the version that answers; none if there is none."""
    champion = Registry(home.models_store).pointer().champion
    if champion is None:
        return []
    return list(open_bundle(home.models_store / "versions" / champion, verify=False).info.labels)


def _answer_as_before(question: LayoutQuestion | SpellingQuestion, layout: Layout, before: Source | None) -> Layout:
    """Return the layout with which a source was read before it could be asked about; it is said, and not changed.

    Raises:
        LayoutQuestion, SpellingQuestion: If it was never read.
    """
    if before is None:
        raise question
    if isinstance(question, SpellingQuestion):
        known = all({*names} <= {*before.labels} for names in question.groups)
        answer = replace(layout, alike="apart") if known else None
    else:
        level = question.find_level(before.labels)
        answer = replace(layout, classes_at=level) if level else None
    if answer is None:
        raise question
    logger.warning("%s\nIt is read as before.", question)
    return answer


def _is_read(home: Workspace) -> bool:
    """Say whether the data set was made from the sources as they are known now: an origin may never have been read."""
    lock = home.lock
    stages = yaml.safe_load(lock.read_text()).get("stages", {}) if lock.exists() else {}
    digest = hashlib.md5(home.intake.read_bytes(), usedforsecurity=False).hexdigest()
    return any(dep.get("md5") == digest for dep in stages.get("ingest", {}).get("deps", []))


def _place(home: Workspace, source: Source) -> Path:
    return source.path if source.name == ORIGIN else home.feedback / source.name / "manifest.csv"
