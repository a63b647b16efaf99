"""Stage ``select``: every backbone is probed on the train part, the best are fine-tuned; one is named."""

import logging

import numpy as np

from regraft.data.dataset.brightness import read_value_range
from regraft.models.backbones.hub import list_backbones
from regraft.models.backbones.licences import read_stated
from regraft.models.prior.run_history import rate_by_record, read_records
from regraft.models.selection.result import SelectConfig, save_selection
from regraft.models.selection.select import ImagesOnDemand, SelectionPaths, select_backbone
from regraft.serving.decoding.preprocess import PreprocessSpec
from regraft.tasks.graph.graph import stage
from regraft.tasks.graph.part_arrays import read_part, read_pixels, read_sizes
from regraft.tasks.graph.progress import show_progress
from regraft.tasks.planning.run_history import describe_dataset, hash_dataset
from regraft.tasks.settings.knobs import read_section
from regraft.tasks.workspace.workspace import Workspace

logger = logging.getLogger(__name__)


@stage
def select(home: Workspace) -> None:
    """Compare the candidates and keep the chosen weights beside the verdict."""
    config = read_section(home.params, "select", SelectConfig)
    known = read_part(home, "train", "validation")
    hashes = known.sha256s
    few = len(hashes) <= 2 * config.max_images

    def pixels_for(spec: PreprocessSpec, rows: np.ndarray) -> np.ndarray:
        # Of a small data set all images are decoded at once: the next stage wants the same array.
        if few:
            return read_pixels(home, hashes, spec)[rows]
        return read_pixels(home, [hashes[row] for row in rows], spec)

    names = list_backbones(config.mirror) if config.candidates == "auto" else config.candidates
    record = rate_by_record(
        read_records(home.known_runs), describe_dataset(home, known), names, exclude_dataset=hash_dataset(home)
    )
    images = ImagesOnDemand(
        pixels_for,
        known.targets,
        known.rows["part"].to_numpy(),
        read_sizes(home, known),
        read_value_range(home.dataset),
        known.groups,
    )
    with show_progress("comparing backbones") as progress:
        selection, backbone = select_backbone(
            images,
            config,
            SelectionPaths(home.backbones, home.backbones_lock, home.features, home.latencies),
            record={name: value for name, value in record.items() if value is not None},
            progress=progress,
        )
    licence = read_stated(backbone.licence)
    if licence.leaves_open:
        logger.warning(
            "licence of the chosen backbone %s: %s; select.forbidden_licences can rule such out",
            backbone.name,
            licence.describe(),
        )
    save_selection(selection, backbone, home.selection)
