"""Classes that would be gone or could not be learnt are said by name, with the way out."""

import pytest

from regraft.data.sources.spelling import fold_spelling
from regraft.data.validation.classes import (
    LostClassError,
    UntaughtClassError,
    check_lost,
    check_taught,
    explain_quarantine,
    list_lost,
)


def test_only_what_was_allowed_by_name_may_be_lost():
    lost = list_lost({"cat": "", "owl": "owl/ is empty", "my dog": "gone"}, ["cat"])
    check_lost("photos", lost, ["owl", "my dog"])
    with pytest.raises(LostClassError, match=r"my dog: gone(.|\n)*--allow-lost 'my dog'") as caught:
        check_lost("photos", lost, ["owl"])
    assert len(caught.value.problems) == 1


def test_the_reasons_of_the_quarantine_explain_a_lost_class():
    rows = [
        {"label": "owl", "reason": "truncated"},
        {"label": "owl", "reason": "empty"},
        {"label": None, "reason": "x"},
    ]
    assert explain_quarantine("owl", rows) == "all of its files are in quarantine (1 empty, 1 truncated)"
    assert explain_quarantine("cat", rows) == "no image of it was listed"


def deal(**parts: str) -> list[tuple[str, str]]:
    """Return rows of classes from words like ``cat="ttvs"``: t trains, v is validation, s is test."""
    names = {"t": "train", "v": "validation", "s": "test"}
    return [(label, names[letter]) for label, letters in parts.items() for letter in letters]


@pytest.mark.parametrize(("letters", "taught"), [("ttvs", True), ("tvs", False), ("sss", False), ("tt", True)])
def test_a_class_needs_two_images_to_learn_from(letters, taught):
    rows = deal(cat="ttvs", owl=letters)
    if taught:
        assert check_taught("split", rows) == ([] if "s" in letters else ["owl"])
        return
    with pytest.raises(UntaughtClassError, match=rf"owl: {letters.count('t')} of its {len(letters)} images"):
        check_taught("split", rows)


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("Cat", "cat", True),
        ("cat ", "cat", True),
        ("hot dog", "Hot-Dog", True),
        ("hot_dog", "hot dog", True),
        ("ﬁsh", "fish", True),
        ("cat", "cats", False),
        ("-1", "1", False),
        ("a1", "a 1", False),
    ],
)
def test_names_look_alike_by_case_blanks_and_dashes_only(one, other, alike):
    assert (fold_spelling(one) == fold_spelling(other)) == alike
