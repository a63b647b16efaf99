"""The places that the recipes of CONTRIBUTING.md name exist, under these names."""

import ast
import dataclasses
import inspect
import re
from pathlib import Path

import yaml

from regraft.client import Answer as ClientAnswer
from regraft.data.drift.comparison import compare_window, run_tests
from regraft.data.validation import expectations, tables
from regraft.models.certificate import baselines
from regraft.models.certificate.config import CertifyConfig, write_recipe
from regraft.models.selection.result import Candidate
from regraft.models.selection.transferability import Scores, score_all
from regraft.models.training import loop, optimizer
from regraft.models.training.config import FinetuneConfig
from regraft.models.training.optimizer import LoopConfig
from regraft.serving.endpoint.engine import Answer
from regraft.tasks.settings.params import Params

ROOT = Path(__file__).resolve().parents[2]
RECIPES = (ROOT / "CONTRIBUTING.md").read_text()


def test_every_file_that_a_recipe_names_exists() -> None:
    named = re.findall(r"`([\w/]+/[\w.]+\.(?:py|md)|(?:params|dvc)\.yaml|README\.md)`", RECIPES)
    assert len(named) >= 25
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_a_knob_has_its_section_and_its_group() -> None:
    assert Params.model_fields["finetune"].annotation is FinetuneConfig
    assert FinetuneConfig.model_fields["loop"].annotation is LoopConfig


def test_an_expectation_has_its_lists_and_its_tables() -> None:
    for name in ("_list_file_checks", "_list_identity_checks", "_list_class_checks"):
        assert name in RECIPES and "Check(" in inspect.getsource(getattr(expectations, name))
    for name in ("_gather_images", "_gather_classes"):
        assert name in RECIPES and callable(getattr(tables, name))


def test_every_stage_of_the_graph_is_called_by_the_flow_in_the_same_order() -> None:
    stages = list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
    flow = ast.parse((ROOT / "flows" / "train.py").read_text())
    (made,) = [node for node in flow.body if isinstance(node, ast.FunctionDef) and node.name == "make_version"]
    called = re.findall(r"\b(\w+)\(home\)", ast.unparse(made))
    assert "`make_version`" in RECIPES and [name for name in called if name in stages] == stages


def test_the_optimizer_decides_what_moves_in_fine_tuning_and_in_the_certificate() -> None:
    assert "freeze_groups(" in inspect.getsource(optimizer.build_optimizer)
    for module, function in ((loop, "run_training"), (baselines, "train_condition")):
        assert "build_optimizer(" in inspect.getsource(getattr(module, function))


def test_scratch_has_a_recipe_of_its_own() -> None:
    config = CertifyConfig()
    recipes = {name: write_recipe(name, 10, 10, 0, config).loop for name in ("transfer", "scratch")}
    assert recipes["transfer"] == config.loop != recipes["scratch"]


def test_a_drift_family_stands_under_its_name_on_both_sides() -> None:
    sides = [re.findall(r'"(\w+)": ', inspect.getsource(side)) for side in (run_tests, compare_window)]
    assert sides[0] == sides[1] and len(sides[0]) >= 3


def test_a_score_is_computed_listed_and_has_its_field_of_a_candidate() -> None:
    made, figures = inspect.getsource(score_all), inspect.getsource(Scores.to_figures)
    for field in dataclasses.fields(Scores):
        assert f"{field.name}=" in made and f"self.{field.name}" in figures
        assert field.name.removesuffix("_hits") in Candidate.model_fields


def test_the_client_knows_every_field_of_the_answer() -> None:
    assert set(ClientAnswer.model_fields) == set(Answer.model_fields)
