"""Stage ``ingest``: from the sources named in ``intake.json`` to an immutable, content-addressed dataset."""

from regraft.data.dataset.ingest import IngestConfig, ingest_sources
from regraft.data.sources.sources import read_intake
from regraft.tasks.graph.graph import stage
from regraft.tasks.graph.progress import show_progress
from regraft.tasks.settings.knobs import read_section
from regraft.tasks.workspace.workspace import Workspace


@stage
def ingest(home: Workspace) -> None:
    """Open, measure and hash every image; write shards, manifest and quarantine. Only what is new is read."""
    config = read_section(home.params, "ingest", IngestConfig)
    with show_progress("reading images") as progress:
        ingest_sources(read_intake(home.intake), home.dataset, config, known=home.known_files, progress=progress)
