"""The model card carries the figures and lets no label break its page."""

import numpy as np
from huggingface_hub import ModelCard

from regraft.models.evaluation.evaluate import EvaluateConfig, evaluate_predictions
from regraft.models.export.model_card import Origins, escape_markdown, render_card


def make_card(names=("ant", "bee"), groups=None, lineage=None, shifts=None, **more) -> str:
    labels = np.array([0] * 40 + [1] * 10)
    p = np.eye(2)[labels] * 0.8 + 0.1
    p[[0, 45]] = p[[0, 45], ::-1]
    metrics = evaluate_predictions(p, labels, list(names), EvaluateConfig(bootstrap=100), groups=groups)
    if shifts:
        metrics["shifts"] = shifts
    origins = Origins({"name": "net.a", "licence": "mit"}, lineage=lineage or {})
    return render_card(name="insects", metrics=metrics, origins=origins, **more)


def test_the_card_says_figures_licence_and_limits():
    card = make_card(
        lineage={"dataset": "ab12"}, split={"train": {"ant": 80, "bee": 20}, "test": {"ant": 40, "bee": 10}}
    )
    assert "| Accuracy | 0.9600 | 0.8654 – 0.9890 |" in card
    assert "licence mit" in card
    assert "| ant | 80 | 40 |" in card
    assert "Weakest class: bee, recall 0.9000" in card
    assert "Fewer than 30 test images, so the figures are uncertain: bee (10)" in card
    assert "`ab12`" in card
    data = ModelCard(card).data  # what a model hub reads of it
    assert (data.license, data.pipeline_tag, data.eval_results[0].metric_value) == ("mit", "image-classification", 0.96)


def test_the_card_counts_groups_and_says_how_often_the_test_part_has_judged():
    plain, grouped = make_card(judged=3), make_card(groups=np.arange(50) // 5, notes=["three images are | black"])
    assert "On 50 held-out images. None of the held-out images was learned from" in plain
    assert "had judged 3 versions by them" in plain and "any choice" not in plain
    assert "On 50 held-out images in 10 groups." in grouped and "| ant | 40 | 8 |" in grouped
    assert "fewer than 8 groups, so the figures are uncertain: bee (2)" in grouped
    assert grouped.index("three images are \\| black") < grouped.index("## Scores")
    assert "each class weighs alike" in grouped


def test_sections_leave_with_their_data():
    card = make_card()
    assert "## Data" not in card
    assert "## Lineage" not in card
    assert make_card() == card


def test_a_label_cannot_open_a_tag_a_cell_or_a_heading():
    assert escape_markdown("<b>|\n# x") == "&lt;b&gt;\\| \\# x"
    card = make_card(names=("<script>|", "# bee\n## Scores"))
    assert "<script>" not in card
    assert card.count("\n## Scores") == 1
    assert all(
        line.count("|") == line.count("\\|") + 7 for line in card.splitlines() if "script" in line and "| 40" in line
    )


def test_the_hardest_change_of_lamp_or_camera_is_a_limit_and_images_as_they_are_are_none():
    names = ("as they are", "half the light", "a cheap camera")
    rows = [
        {"name": name, "describes": "so", "accuracy": share, "accuracy_low": share - 0.1, "accuracy_high": share + 0.1}
        for name, share in zip(names, (0.2, 0.9, 0.7), strict=True)
    ]
    card = make_card(shifts={"n": 40, "rows": rows})
    hardest = (
        "Of 2 changes of lamp, lens and sensor the hardest is a cheap camera (so): accuracy 0.7000 [0.6000, 0.8000]"
    )
    assert hardest in card
    assert "changes of lamp" not in make_card()
