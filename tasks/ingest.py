"""Stage ``ingest``: from the sources named in ``intake.json`` to an immutable, content-addressed dataset."""

from data.ingest import ingest_sources
from data.intake import read_intake
from tasks.graph import stage
from tasks.params import load_params
from tasks.progress import show_progress
from tasks.workspace import Workspace


@stage
def ingest(home: Workspace) -> None:
    """Open, measure and hash every image; write shards, manifest and quarantine. Only what is new is read."""
    config = load_params(home.params).ingest
    with show_progress("reading images") as progress:
        ingest_sources(read_intake(home.intake), home.dataset, config, known=home.known_files, progress=progress)
