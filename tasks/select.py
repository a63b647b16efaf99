"""Stage ``select``: every candidate backbone is retrieved and probed on the train part; the verdict names one."""

import numpy as np

from models.selection import save_selection, select_backbone
from serving.preprocess import PreprocessSpec
from tasks.graph import stage
from tasks.params import load_params
from tasks.pixels import read_part, read_pixels, read_sizes
from tasks.progress import show_progress
from tasks.workspace import Workspace


@stage
def select(home: Workspace) -> None:
    """Compare the candidates and keep the chosen weights beside the verdict."""
    known = read_part(home, "train", "validation")
    hashes = known.sha256s

    def pixels_for(spec: PreprocessSpec, rows: np.ndarray) -> np.ndarray:
        return read_pixels(home, [hashes[row] for row in rows], spec)

    with show_progress("probing backbones") as progress:
        selection, backbone = select_backbone(
            pixels_for,
            known.targets,
            known.rows["part"].to_numpy(),
            read_sizes(home, known),
            load_params(home.params).select,
            store=home.backbones,
            lock=home.backbones_lock,
            progress=progress,
        )
    save_selection(selection, backbone, home.selection)
