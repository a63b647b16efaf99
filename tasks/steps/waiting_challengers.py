"""Challengers that wait for a verdict: made and never judged because a run was killed, or undecided so far.

Both are derived from the registry and its journal, so that any interruption is finished by the next run.
"""

from regraft.data.drift.alarm import RetrainConfig
from regraft.serving.bundle.format import BundleError, open_bundle
from regraft.serving.registry.registry import Registry
from regraft.tasks.settings.params import load_params
from regraft.tasks.settings.terms import keep_terms
from regraft.tasks.steps.register import register
from regraft.tasks.steps.samples import read_unlearned
from regraft.tasks.workspace.judgements import Judgement, find_undecided
from regraft.tasks.workspace.workspace import Workspace


def find_unjudged(home: Workspace) -> str | None:
    """Return the version that the last run registered and never judged, or None.

    Every judgement ends in an entry of the journal (promote or challenge); a registered version without one was left
    between the two. Only the bundle at hand counts: its data set and test part are those in the workspace.
    """
    try:
        version = open_bundle(home.bundle, verify=False).info.version
    except BundleError:
        return None
    registry = Registry(home.models_store)
    if not registry.path(version).is_dir():
        return None
    return None if version in {entry.version for entry in registry.journal()} else version


def find_unsettled(home: Workspace) -> str | None:
    """Return the version to be judged now, without a training: one never judged, or one whose labels have come."""
    if find_unjudged(home):
        keep_terms(home)  # a version was made with them
        return register(home)  # once more: a kill may have left it without its lineage
    pointer = Registry(home.models_store).pointer()
    waiting = find_undecided(home, pointer.challenger, pointer.champion)
    if waiting is None or pointer.champion is None:
        return None
    wanted = count_wanted(waiting, load_params(home.params).retrain)
    return waiting.version if len(read_unlearned(home, pointer.champion)) >= wanted else None


def count_wanted(waiting: Judgement, config: RetrainConfig) -> int:
    """Return how many random labels that no version has learned from the next judgement waits for."""
    return waiting.extra + min(waiting.needed or 1, config.max_request)
