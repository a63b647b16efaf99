"""What the test images are to a version, in words: what they took no part in, and how often they have judged."""

from collections.abc import Mapping
from typing import Any

RULE = (
    "In every verdict (first gate, gate, certificate) each class weighs alike, however many images it has: balanced "
    "accuracy decides. Accuracy over images is shown beside it."
)


def say_held_out(test: Mapping[str, Any]) -> str:
    """Return the number of held-out images in words, with that of their groups where they come in groups.

    Args:
        test: ``test`` of what ``regraft.models.evaluation.evaluate.evaluate_predictions`` returned.
    """
    groups = test.get("groups")
    return f"{test['n']} held-out images" + ("" if groups is None else f" in {groups} groups")


def say_judged(judged: int | None) -> str:
    """Return what the held-out images had to do with the version, true after any number of gates.

    Args:
        judged: Versions that this test part had judged when the page was made; None where nobody counted.
    """
    words = "None of the held-out images was learned from, and no step that made this version chose by them. "
    if judged is None:
        return f"{words}The gate judges versions by them."
    if judged == 0:
        return f"{words}When this page was made, no version had been judged by them."
    versions = "1 version" if judged == 1 else f"{judged} versions"
    return (
        f"{words}When this page was made, the gate had judged {versions} by them: the best of several on the same "
        "images looks better than it is, and the more they have judged, the less they prove. New test images judge "
        "afresh."
    )
