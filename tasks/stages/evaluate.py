"""Stage ``evaluate``: the checkpoint is judged on the test part, once, with intervals."""

import numpy as np

from regraft.models.classifier.checkpoint import load_checkpoint, load_plain_head
from regraft.models.classifier.predictions import Answers, answer_pixels, write_answers
from regraft.models.classifier.robustness import HeldImages, explain_single, measure_robustness
from regraft.models.evaluation.evaluate import EvaluateConfig, evaluate_predictions, write_evaluation
from regraft.tasks.graph.graph import stage
from regraft.tasks.graph.part_arrays import read_part, read_paths, read_pixels
from regraft.tasks.graph.progress import show_progress
from regraft.tasks.settings.knobs import read_section
from regraft.tasks.workspace.workspace import Workspace


@stage
def evaluate(home: Workspace) -> None:
    """Score the checkpoint on the test images and write scores, predictions and the data of the plots.

    The answers on both held-out parts are kept: export needs them, and the network is slow.
    """
    config = read_section(home.params, "evaluate", EvaluateConfig)
    classifier, info = load_checkpoint(home.checkpoint)
    test, held_out = read_part(home, "test"), read_part(home, "validation")

    def answer(pixels: np.ndarray) -> Answers:
        with show_progress("answering held-out images") as progress:
            return answer_pixels(classifier, pixels, device=config.device, threads=config.threads, progress=progress)

    pixels = read_pixels(home, test.sha256s, info.preprocess)
    said, targets = answer(pixels), test.targets
    metrics = evaluate_predictions(
        said.probabilities, targets, info.labels, config, logits=said.logits, groups=test.groups
    )
    if config.shift_images:
        held = HeldImages(pixels, targets, test.groups, said.embedding)
        plain_head = load_plain_head(home.checkpoint, info)
        with show_progress("another lamp or camera") as progress:
            metrics["shifts"] = measure_robustness(classifier, plain_head, held, config, progress=progress)
        if plain_head is None:
            metrics["shifts"]["alone"] = explain_single(info)
    write_evaluation(
        home.evaluation,
        metrics,
        sha256s=test.sha256s,
        labels=targets,
        probabilities=said.probabilities,
        paths=read_paths(home, test),
    )
    write_answers(home.evaluation / "test.npz", said)
    pixels = read_pixels(home, held_out.sha256s, info.preprocess)
    write_answers(home.evaluation / "validation.npz", answer(pixels))
