"""Stage ``evaluate``: the checkpoint is judged on the test part, once, with intervals."""

from models.answers import answer_pixels
from models.checkpoint import load_checkpoint
from models.evaluation import evaluate_predictions, write_evaluation
from tasks.graph import stage
from tasks.params import load_params
from tasks.pixels import read_part, read_pixels
from tasks.progress import show_progress
from tasks.workspace import Workspace


@stage
def evaluate(home: Workspace) -> None:
    """Score the checkpoint on the test images and write scores, predictions and the data of the plots."""
    classifier, info = load_checkpoint(home.checkpoint)
    test = read_part(home, "test")
    pixels = read_pixels(home, test.sha256s, info.preprocess)
    with show_progress("answering the test images") as progress:
        answers = answer_pixels(classifier, pixels, progress=progress)
    metrics = evaluate_predictions(
        answers.probabilities, test.targets, info.labels, load_params(home.params).evaluate, logits=answers.logits
    )
    write_evaluation(
        home.evaluation, metrics, sha256s=test.sha256s, labels=test.targets, probabilities=answers.probabilities
    )
