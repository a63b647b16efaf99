"""The places that the recipes of CONTRIBUTING.md name exist, under these names."""

import dataclasses
import inspect
import re
from pathlib import Path

from regraft.client import Answer as ClientAnswer
from regraft.data.validation import expectations, tables
from regraft.models.selection.result import Candidate
from regraft.models.selection.transferability import Scores, score_all
from regraft.models.training.config import FinetuneConfig
from regraft.models.training.optimizer import LoopConfig
from regraft.serving.endpoint.engine import Answer
from regraft.tasks.settings.params import Params

ROOT = Path(__file__).resolve().parents[2]
RECIPES = (ROOT / "CONTRIBUTING.md").read_text()


def test_every_file_that_a_recipe_names_exists() -> None:
    named = re.findall(r"`([\w/]+/[\w.]+\.(?:py|md)|params\.yaml)`", RECIPES)
    assert len(named) >= 9
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_a_knob_has_its_section_and_its_group() -> None:
    assert Params.model_fields["finetune"].annotation is FinetuneConfig
    assert FinetuneConfig.model_fields["loop"].annotation is LoopConfig


def test_an_expectation_has_its_lists_and_its_tables() -> None:
    for name in ("_list_file_checks", "_list_identity_checks", "_list_class_checks"):
        assert name in RECIPES and "Check(" in inspect.getsource(getattr(expectations, name))
    for name in ("_gather_images", "_gather_classes"):
        assert name in RECIPES and callable(getattr(tables, name))


def test_a_score_is_computed_listed_and_has_its_field_of_a_candidate() -> None:
    made, figures = inspect.getsource(score_all), inspect.getsource(Scores.to_figures)
    for field in dataclasses.fields(Scores):
        assert f"{field.name}=" in made and f"self.{field.name}" in figures
        assert field.name.removesuffix("_hits") in Candidate.model_fields


def test_the_client_knows_every_field_of_the_answer() -> None:
    assert set(ClientAnswer.model_fields) == set(Answer.model_fields)
