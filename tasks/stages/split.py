"""Stage ``split``: train, validation and test, decided by content hash and frozen."""

import csv
import logging

from regraft.data.dataset.manifest import read_manifest
from regraft.data.dataset.twins import read_twins
from regraft.data.split.split import SplitConfig, split_dataset, write_split
from regraft.data.validation.classes import check_taught
from regraft.tasks.graph.graph import stage
from regraft.tasks.settings.knobs import read_section
from regraft.tasks.workspace.workspace import Workspace

logger = logging.getLogger(__name__)


@stage
def split(home: Workspace) -> None:
    """Assign every distinct image to a part; rows in ``frozen.csv`` keep theirs.

    Raises:
        UntaughtClassError: If a class would have no image to learn from, whatever the reason.
    """
    with home.frozen.open(newline="") as file:
        frozen = {row["sha256"]: row["part"] for row in csv.DictReader(file)}
    config, twins = read_section(home.params, "split", SplitConfig), read_twins(home.validation)
    parts = split_dataset(read_manifest(home.dataset), frozen, config, twins)
    unjudged = check_taught(str(home.dataset), zip(parts["label"], parts["part"], strict=True))
    if unjudged:
        logger.warning("no image of %s is in the test part: nothing will be known of it", ", ".join(unjudged))
    write_split(home.split, parts)
