"""Shapes of the code: rooms without circles, short functions of few arguments; and proof that each check can fail."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("house.py")


def load_script() -> ModuleType:
    """Import the script by its path: tests are no package."""
    spec = importlib.util.spec_from_file_location("house", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["house"] = module
    spec.loader.exec_module(module)
    return module


script = load_script()


@pytest.fixture(scope="module")
def house():
    return script.measure_house(ROOT)


@pytest.fixture
def plant(tmp_path: Path):
    """Return a function that writes files by their names and measures the house they make."""

    def measure(**files: str):
        for name, source in files.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
        return script.measure_house(tmp_path)

    return measure


def long_function(name: str, lines: int, above: str = "") -> str:
    return f"{above}def {name}():\n" + "    pass\n" * (lines - 1 - above.count("\n"))


def test_no_rooms_import_each_other(house) -> None:
    assert house.circles == []


def test_no_function_is_long_but_the_training_loop(house) -> None:
    assert house.long_functions == []


def test_no_function_takes_many_arguments(house) -> None:
    assert house.wide_functions == []


def test_the_house_is_measured_as_a_whole(house) -> None:
    figures = house.to_json()
    assert {room.partition("/")[0] for room in house.arrows} == set(script.FLOORS)
    assert figures["largest_file"]["lines"] <= 310
    assert figures["repeated_runs"] == 0
    assert script.LOOP in {each.place for each in house.functions}


def test_a_circle_is_found_over_three_rooms_and_in_a_function(plant) -> None:
    house = plant(
        models__a__x="import regraft.models.b.y\n",
        models__b__y="from regraft.models.c import z\n",
        models__c__z="def late():\n    from regraft.models.a.x import thing\n",
        data__d__w="import regraft.models.a.x\nimport numpy\n",
    )
    assert house.circles == [["models/a", "models/b", "models/c"]]
    assert house.arrows["data/d"] == {"models/a"}


def test_an_import_whose_target_is_not_in_the_line_is_refused(plant) -> None:
    with pytest.raises(ValueError, match=r"data/a/x\.py:1 imports relatively"):
        plant(data__a__x="from . import y\n")


@pytest.mark.parametrize(("lines", "found"), [(50, []), (51, ["models/a/x.py:f (51 lines)"])])
def test_a_line_too_many_is_found_and_decorators_count(plant, lines: int, found: list[str]) -> None:
    assert plant(models__a__x=long_function("f", lines, above="@g\n")).long_functions == found


def test_only_the_training_loop_may_be_longer_and_not_by_much(plant) -> None:
    name = "run_training"
    allowed = plant(models__training__loop=long_function(name, 80), models__a__x=long_function(name, 51))
    assert allowed.long_functions == ["models/a/x.py:run_training (51 lines)"]
    assert plant(models__training__loop=long_function(name, 81)).long_functions[-1].endswith("(81 lines)")


@pytest.mark.parametrize(
    ("signature", "count"),
    [
        ("def f(a, b, c, d, e, f, g): ...", 7),
        ("def f(a, b, c, d, e, f, *, g, h=1): ...", 8),
        ("async def f(a, /, b, c, d, e, *rest, g, **more): ...", 8),
        ("class C:\n    def f(self, a, b, c, d, e, f, g): ...", 7),
        ("class C:\n    @classmethod\n    def f(cls, a, b, c, d, e, f, *, g, h): ...", 8),
        ("class C:\n    @staticmethod\n    def f(a, b, c, d, e, f, g, h): ...", 8),
        ("def g():\n    def f(a, b, c, d, e, f, g, h): ...", 8),
    ],
)
def test_arguments_are_counted_without_self(plant, signature: str, count: int) -> None:
    house = plant(models__a__x=signature + "\n")
    assert next(each.arguments for each in house.functions if each.place.endswith(":f")) == count
    assert house.wide_functions == (["models/a/x.py:f (8)"] if count > 7 else [])


def test_options_of_a_command_are_counted_apart(plant) -> None:
    signature = "def train(a, b, c, d, e, f, g, h): ...\n"
    house = plant(flows__cli__x="@app.command(epilog='x')\n" + signature, flows__cli__y="@app.callback()\n" + signature)
    assert house.wide_commands == ["flows/cli/x.py:train (8)"]
    assert house.wide_functions == ["flows/cli/y.py:train (8)"]


def test_six_lines_that_occur_twice_are_found_whatever_their_indent(plant) -> None:
    lines = [f"x{number} = {number}" for number in range(7)]
    imports = "from regraft.data.a import (\n" + "".join(f"    y{number},\n" for number in range(9)) + ")\n"
    plain, indented = "\n".join(lines), "if True:\n    # why\n\n    " + "\n    ".join(lines)
    assert plant(data__a__x=imports + plain).repeated == 0
    assert plant(data__a__y=imports + indented).repeated == 2  # seven lines hold two runs of six
    assert plant(data__a__y=indented.replace("x3 = 3", "x3 = 4")).repeated == 0


def test_the_script_prints_text_and_json(tmp_path: Path) -> None:
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "x.py").write_text(long_function("f", 60))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)

    figures = json.loads(run(str(tmp_path), "--json").stdout)
    assert figures["long_functions"] == ["data/a/x.py:f (60 lines)"]
    assert (figures["rooms"], figures["largest_file"]) == (1, {"file": "data/a/x.py", "lines": 60})
    text = run(str(tmp_path)).stdout
    assert "functions over 50 lines       1\n    data/a/x.py:f (60 lines)\n" in text
    empty = run(str(tmp_path / "data"))
    assert empty.returncode == 1 and "give the root of the repository" in empty.stderr
