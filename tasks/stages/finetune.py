"""Stage ``finetune``: a linear head on kept features, fine-tuning from it; the better of the two is kept."""

from regraft.models.heads.data import LabelledImages
from regraft.models.selection.result import load_selection
from regraft.models.training.config import FinetuneConfig
from regraft.models.training.finetune import FinetunePaths
from regraft.models.training.finetune import finetune as train_classifier
from regraft.tasks.graph.graph import stage
from regraft.tasks.graph.part_arrays import read_part, read_pixels
from regraft.tasks.graph.progress import show_progress
from regraft.tasks.settings.knobs import read_section
from regraft.tasks.workspace.workspace import Workspace


@stage
def finetune(home: Workspace) -> None:
    """Train on the train part, choose on the validation part; a killed run goes on where its last snapshot was."""
    chosen, backbone = load_selection(home.selection)
    spec = chosen.winner.preprocess
    known = read_part(home, "train", "validation")
    pixels, parts = read_pixels(home, known.sha256s, spec), known.rows["part"].to_numpy()
    with show_progress("fine-tuning") as progress:
        train_classifier(
            backbone,
            LabelledImages(pixels, known.targets, parts, known.labels, known.groups),
            spec,
            read_section(home.params, "finetune", FinetuneConfig),
            FinetunePaths(into=home.checkpoint, state=home.training, features=home.features),
            adapt_images=chosen.winner.adapt_images,
            progress=progress,
        )
