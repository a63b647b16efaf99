"""Stage ``certify``: did the pretrained weights help, against the same network without them and against none."""

from regraft.models.certificate.certify import certify as write_certificate
from regraft.models.certificate.certify import choose_side
from regraft.models.certificate.config import CertifyConfig
from regraft.models.certificate.verdict import save_certificate
from regraft.models.heads.data import LabelledImages
from regraft.models.selection.result import load_selection
from regraft.models.statistics.draws import choose_rows
from regraft.tasks.graph.graph import stage
from regraft.tasks.graph.part_arrays import read_part, read_pixels
from regraft.tasks.graph.progress import show_progress
from regraft.tasks.settings.knobs import read_section
from regraft.tasks.workspace.workspace import Workspace


@stage
def certify(home: Workspace) -> None:
    """Repeat the learning on a few draws of labels, with and without the chosen weights, and write the verdict."""
    config = read_section(home.params, "certify", CertifyConfig)
    chosen, backbone = load_selection(home.selection)
    every = read_part(home, "train", "validation", "test")
    parts = every.rows["part"].to_numpy()
    rows = choose_rows(every.targets, parts, config.max_images, config.max_test, config.seed, every.groups)
    hashes = every.sha256s
    pixels = read_pixels(home, [hashes[row] for row in rows], choose_side(backbone, chosen.winner.preprocess, config))
    with show_progress("certifying the transfer") as progress:
        certificate = write_certificate(
            backbone,
            LabelledImages(pixels, every.targets[rows], parts[rows], every.labels, every.groups[rows]),
            config,
            adapt_images=chosen.winner.adapt_images,
            progress=progress,
        )
    save_certificate(certificate, home.certificate)
