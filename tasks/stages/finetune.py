"""Stage ``finetune``: a linear head on kept features, fine-tuning from it; the better of the two is kept."""

from regraft.models.selection.result import load_selection
from regraft.models.training.config import FinetuneConfig
from regraft.models.training.finetune import finetune as train_classifier
from regraft.tasks.graph.graph import stage
from regraft.tasks.graph.parts import read_part, read_pixels
from regraft.tasks.graph.progress import show_progress
from regraft.tasks.settings.knobs import read_section
from regraft.tasks.workspace.workspace import Workspace


@stage
def finetune(home: Workspace) -> None:
    """Train on the train part, choose on the validation part; a killed run goes on where its last snapshot was."""
    chosen, backbone = load_selection(home.selection)
    spec = chosen.winner.preprocess
    known = read_part(home, "train", "validation")
    with show_progress("fine-tuning") as progress:
        train_classifier(
            backbone,
            read_pixels(home, known.sha256s, spec),
            known.targets,
            known.rows["part"].to_numpy(),
            known.labels,
            spec,
            read_section(home.params, "finetune", FinetuneConfig),
            state=home.training,
            into=home.checkpoint,
            adapt_images=chosen.winner.adapt_images,
            groups=known.groups,
            features=home.features,
            progress=progress,
        )
