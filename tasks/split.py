"""Stage ``split``: train, validation and test, decided by content hash and frozen."""

import csv

from data.manifest import read_manifest
from data.splits import split_dataset, write_split
from tasks.graph import stage
from tasks.params import load_params
from tasks.workspace import Workspace


@stage
def split(home: Workspace) -> None:
    """Assign every distinct image to a part; rows in ``frozen.csv`` keep theirs."""
    with home.frozen.open(newline="") as file:
        frozen = {row["sha256"]: row["part"] for row in csv.DictReader(file)}
    parts = split_dataset(read_manifest(home.dataset), frozen, load_params(home.params).split)
    write_split(home.split, parts)
