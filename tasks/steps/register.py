"""Step ``register``: the bundle becomes an immutable version, and what other copies promoted meanwhile is known."""

import logging

from regraft.serving.registry.registry import Registry
from regraft.tasks.graph.prefect_step import step
from regraft.tasks.settings.terms import keep_terms
from regraft.tasks.sharing.remote_store import RemoteError
from regraft.tasks.sharing.sharing import follow
from regraft.tasks.workspace.lineage import record_lineage
from regraft.tasks.workspace.workspace import Workspace

logger = logging.getLogger(__name__)


@step
def register(home: Workspace) -> str:
    """Copy the bundle into the registry, keep its lineage and return the version. Again: nothing changes.

    A training takes its time: the champion that the version is judged against next is the one of now.
    """
    version = Registry(home.models_store).register(home.bundle)
    record_lineage(home, version)
    keep_terms(home)  # from here on they are those of a version
    try:
        told = follow(home)
    except RemoteError as error:  # nothing is lost by it: the push at the end says so again
        logger.warning("%s; the version is judged against the champion that is known here", error)
    else:
        for note in told.notes:
            logger.warning("%s", note)
    return version
