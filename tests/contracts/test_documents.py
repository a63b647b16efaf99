"""Documents that guard themselves: what the README, the graph and the parameters say is what there is."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from regraft.tasks.settings.inheritance import INHERITED, complete
from regraft.tasks.settings.params import Params, load_params
from regraft.tasks.settings.template import render_params
from regraft.tasks.workspace.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text())
PARTS_OF_STEPS = {"audit", "label_queue", "samples", "waiting_challengers"}


def test_stage_is_task_file_is_function_is_section() -> None:
    sections = {field.alias or name for name, field in Params.model_fields.items()}
    for name, stage in GRAPH["stages"].items():
        source = (ROOT / "tasks" / "stages" / f"{name}.py").read_text()
        assert f"def {name}(home: Workspace)" in source
        assert stage["cmd"] == f"regraft stage {name}"
        read = re.findall(r'read_section\(home\.params, "(\w+)"', source)
        assert set(read) == ({name} if name in sections else set())  # a stage without knobs has no section


def test_the_graph_reads_and_writes_what_the_workspace_names_and_no_stage_opens_anything_else() -> None:
    home = Workspace(ROOT)
    names = {name: member for name, member in vars(Workspace).items() if isinstance(member, property)}
    places = {getattr(home, name).relative_to(ROOT).as_posix(): name for name in names}
    caches = {"state", "latencies", "features", "training", "known_files"}  # safe to delete
    free = caches | {"params", "backbones", "backbones_lock"}  # weights are held by a lock of their own
    for stage, said in GRAPH["stages"].items():
        listed = [next(iter(one)) if isinstance(one, dict) else one for one in (*said["deps"], *said["outs"])]
        unknown = [path for path in listed if path not in places]
        assert not unknown, (stage, unknown)
        opened = set(re.findall(r"\bhome\.(\w+)", (ROOT / "tasks" / "stages" / f"{stage}.py").read_text()))
        undeclared = opened & set(names) - free - {places[path] for path in listed}
        assert not undeclared, (stage, undeclared)


def test_every_stage_is_described_and_watches_its_section_what_it_inherits_and_its_code() -> None:
    sections = {field.alias or name for name, field in Params.model_fields.items()}
    for name, stage in GRAPH["stages"].items():
        assert len(stage["desc"]) > 20
        watched = [name] if name in sections else []
        watched += [f"common.{key}" for key in INHERITED.get(name, ())]
        assert stage["params"] == [*watched, {"code.yaml": [name]}]


def test_every_stage_inherits_what_the_common_section_holds_and_its_own_knows() -> None:
    common = yaml.safe_load((ROOT / "params.yaml").read_text())["common"]
    for name, section in Params():
        alias = Params.model_fields[name].alias or name
        shared = set(common) & set(type(section).model_fields) if alias in GRAPH["stages"] else set()
        assert set(INHERITED.get(alias, ())) == shared, alias
    assert set(common) == {key for keys in INHERITED.values() for key in keys}


def test_the_committed_parameters_are_the_defaults_and_complete() -> None:
    params = load_params(ROOT / "params.yaml")
    assert params == Params()
    written = complete(yaml.safe_load((ROOT / "params.yaml").read_text()))
    for name, section in params:
        alias = Params.model_fields[name].alias or name
        assert list_keys(written[alias]) == list_fields(type(section)), alias


def list_keys(section: dict[str, Any]) -> set[str]:
    """Return the keys of a section, those of a group within it as ``group.key``."""
    within = {f"{name}.{key}" for name, group in section.items() if isinstance(group, dict) for key in list_keys(group)}
    return {name for name, value in section.items() if not isinstance(value, dict)} | within


def list_fields(model: type[BaseModel]) -> set[str]:
    """Return the fields of a section, those of a group within it as ``group.field``."""
    groups = {
        name: field.annotation
        for name, field in model.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }
    within = {f"{name}.{key}" for name, group in groups.items() for key in list_fields(group)}
    return model.model_fields.keys() - groups.keys() | within


def describe_fields(model: type[BaseModel]) -> list[str]:
    silent = [f"{model.__name__}.{name}" for name, field in model.model_fields.items() if not field.description]
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            silent += describe_fields(field.annotation)
    return silent


def test_every_parameter_says_what_it_is() -> None:
    assert describe_fields(Params) == []


def test_the_committed_parameters_are_written_by_the_docstrings() -> None:
    assert render_params() == (ROOT / "params.yaml").read_text(), "run: make params"


def test_every_yaml_in_the_repository_loads() -> None:
    listed = subprocess.run(["git", "ls-files", "*.yaml"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = listed.stdout.split() or ["dvc.yaml", "params.yaml"]
    for name in files:
        assert isinstance(yaml.safe_load((ROOT / name).read_text()), dict), name


def test_every_task_is_in_the_readme() -> None:
    table = (ROOT / "README.md").read_text()
    for path in [*(ROOT / "tasks" / "stages").glob("*.py"), *(ROOT / "tasks" / "steps").glob("*.py")]:
        if path.stem not in PARTS_OF_STEPS | {"__init__"}:
            assert f"`{path.stem}`" in table, path.stem


def test_the_changelog_begins_with_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first and first.group(1) == version


def test_every_runtime_requirement_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()}
    for requirement in project["dependencies"] + project["optional-dependencies"]["dev"]:
        assert re.split(r"[<>=]", requirement)[0].strip().lower().replace("_", "-") in pins, requirement


@pytest.mark.parametrize("trap", ["fastapi", "sqlalchemy"])
def test_the_pins_that_keep_schedules_alive_hold(trap: str) -> None:
    pins = dict(line.lower().split("==") for line in (ROOT / "constraints.txt").read_text().split())
    bound = {"fastapi": (0, 154), "sqlalchemy": (2, 1)}[trap]
    assert tuple(int(part) for part in pins[trap].split(".")[:2]) < bound


def test_no_file_is_called_after_nothing() -> None:
    for floor in ("flows", "tasks", "models", "data", "serving", "benchmarks"):
        assert not [p for p in (ROOT / floor).rglob("*.py") if p.stem in {"utils", "helpers", "common", "base", "misc"}]
