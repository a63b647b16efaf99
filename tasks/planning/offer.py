"""What is on offer to ``select``: the backbones of the mirror and those that ship with the repository.

They lie outside of what DVC watches, so their hash stands beside that of the stage's code in ``code.yaml``: a backbone
that is added, removed or exchanged makes ``select`` run again, also in workspaces whose ``dvc.yaml`` is older.
"""

import hashlib
import json
import logging

from regraft.models.backbones.hub import list_offers
from regraft.models.backbones.network import BackboneError
from regraft.tasks.graph.code_hash import read_offer, refresh_code
from regraft.tasks.graph.graph import list_stages
from regraft.tasks.settings.params import load_params
from regraft.tasks.workspace.workspace import Workspace

logger = logging.getLogger(__name__)


def survey(home: Workspace) -> None:
    """Note in code.yaml what is on offer now.

    A mirror that cannot be asked leaves the note as it is, and says so: the selection that was made with it stands. A
    selection that has to be made asks again, and fails.
    """
    config = load_params(home.params).select
    try:
        offers = list_offers(config.mirror)
    except BackboneError as error:
        logger.warning("what is on offer could not be looked at, a finished selection stays as it is: %s", error)
        return
    if config.candidates != "auto":
        offers = {name: offer for name, offer in offers.items() if name in config.candidates}
    digest = hashlib.sha256(json.dumps(offers, sort_keys=True).encode()).hexdigest()[:16]
    known = read_offer(home.code)
    if known not in (None, digest):
        logger.info("backbones on offer changed; on offer now: %s", ", ".join(sorted(offers)))
    refresh_code(home.code, list_stages(home), digest)
