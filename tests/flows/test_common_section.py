"""What several stages share stands once in ``params.yaml``; files of before mean what they meant."""

import logging
from pathlib import Path

import pytest
import yaml

from regraft.models.evaluation.evaluate import EvaluateConfig
from regraft.models.training.config import FinetuneConfig
from regraft.tasks.graph.graph import GraphError, drive_stage
from regraft.tasks.settings.earlier_keys import RENAMED, _warn_once
from regraft.tasks.settings.inheritance import COMMON, INHERITED
from regraft.tasks.settings.knobs import ParamsError, parse_assignments, read_section, require_known
from regraft.tasks.settings.params import Params, load_params, set_params, write_params
from regraft.tasks.settings.terms import Terms, hold_terms
from regraft.tasks.settings.watched import watch_inherited
from regraft.tasks.workspace.workspace import Workspace, init_workspace

SHARED = ("seed", "device", "threads", "loop")


@pytest.fixture
def home(tmp_path: Path) -> Workspace:
    return init_workspace(tmp_path / "w")


@pytest.fixture
def earlier(home: Workspace) -> Workspace:
    """A workspace made before there was a section ``common``: each section says everything itself."""
    written = yaml.safe_load(home.params.read_text())
    common = written.pop(COMMON)
    for section, keys in INHERITED.items():
        written[section] |= {key: common[key] for key in keys}
    home.params.write_text(yaml.safe_dump(written, sort_keys=False))
    graph = home.root / "dvc.yaml"
    graph.write_text("".join(line for line in graph.read_text().splitlines(True) if f"- {COMMON}." not in line))
    return home


@pytest.fixture
def renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RENAMED, "evaluate.resamples", "evaluate.bootstrap")
    monkeypatch.setitem(RENAMED, "common.loop.lr", "common.loop.head_lr")
    _warn_once.cache_clear()


def list_watched(home: Workspace, stage: str) -> list[str]:
    watched = yaml.safe_load((home.root / "dvc.yaml").read_text())["stages"][stage]["params"]
    return [key for key in watched if str(key).startswith(COMMON)]


def drive_quickly(home: Workspace) -> str:
    """Drive ``evaluate`` with a body that costs nothing; return whether it ran."""
    graph = home.root / "dvc.yaml"
    written = yaml.safe_load(graph.read_text())
    if len(written["stages"]) > 1:
        stage = {"cmd": "regraft stage evaluate", "outs": ["models/store/evaluation"]}
        stage["params"] = written["stages"]["evaluate"]["params"]
        graph.write_text(yaml.safe_dump({"stages": {"evaluate": stage}}))
    return drive_stage(home, "evaluate", write_seed).state


def write_seed(home: Workspace) -> None:
    home.evaluation.mkdir(parents=True, exist_ok=True)
    (home.evaluation / "seed").write_text(str(read_section(home.params, "evaluate", EvaluateConfig).seed))


def test_a_section_inherits_and_may_override_key_by_key(home: Workspace) -> None:
    set_params(home.params, {"common.seed": 5, "finetune.seed": 3, "certify.loop.augment.contrast": 0.5})
    params = load_params(home.params)
    assert [params.split.seed, params.select.seed, params.finetune.seed, params.evaluate.seed] == [5, 5, 3, 5]
    assert (params.certify.loop.augment.contrast, params.finetune.loop.augment.contrast) == (0.5, 0.15)
    assert params.certify.loop.augment.brightness == params.finetune.loop.augment.brightness
    assert read_section(home.params, "finetune", FinetuneConfig) == params.finetune


def test_an_override_stands_at_the_end_of_its_section_and_comments_stay_where_they_were(home: Workspace) -> None:
    before = home.params.read_text()
    text = write_params(home.params, {"finetune.loop.head_lr": 0.01, "finetune.seed": 3})
    added = "  loop:\n    head_lr: 0.01\n  seed: 3\n"
    assert f"{added}\n# Intervals and bins of the scores.\nevaluate:" in text
    assert text.replace(added, "") == write_params(home.params, {})
    assert [line for line in text.splitlines() if "#" in line] == [line for line in before.splitlines() if "#" in line]


def test_a_file_of_before_means_what_it_meant_and_is_left_as_it_is(earlier: Workspace) -> None:
    before = [(earlier.root / name).read_bytes() for name in ("params.yaml", "dvc.yaml")]
    assert load_params(earlier.params) == Params()
    watch_inherited(earlier)
    assert [(earlier.root / name).read_bytes() for name in ("params.yaml", "dvc.yaml")] == before
    set_params(earlier.params, {"finetune.seed": 3})
    assert [load_params(earlier.params).finetune.seed, load_params(earlier.params).split.seed] == [3, 0]


def test_a_common_key_that_every_section_hides_is_refused_and_not_lost_in_silence(earlier: Workspace) -> None:
    before = earlier.params.read_bytes()
    with pytest.raises(ParamsError, match=r"common\.threads would change nothing.*select\.threads, finetune\.threads"):
        set_params(earlier.params, {"common.threads": 1})
    assert earlier.params.read_bytes() == before


def test_mistakes_in_the_common_section_are_named_once_and_where_they_are(home: Workspace) -> None:
    for wrong in ({"common.seed": -1}, {"common.sed": 1}, {"common.loop.hed_lr": 1}, {"common": 5}):
        with pytest.raises(ParamsError) as refused:
            set_params(home.params, wrong)
        assert str(refused.value).partition("anew: ")[2].count(f"{next(iter(wrong))}: ") == 1
        assert ";" not in str(refused.value)
    home.params.write_text("common: {sed: 1}\n")
    with pytest.raises(ParamsError, match=r"common\.sed"):
        read_section(home.params, "evaluate", EvaluateConfig)
    home.params.write_text("common:\nevaluate: {bins: 3}\n")
    assert load_params(home.params).evaluate.bins == 3
    home.params.write_text("- common\n")
    with pytest.raises(ParamsError, match="holds no sections"):
        read_section(home.params, "evaluate", EvaluateConfig)


def test_a_key_that_stands_only_in_the_common_section_is_known_to_the_command_line() -> None:
    require_known(["finetune.seed", "common.threads", "certify.loop.augment.contrast"])
    with pytest.raises(ParamsError, match=r"is it common\.threads\?"):
        require_known(["common.thread"])


def test_dvc_notices_a_change_of_an_inherited_key(home: Workspace) -> None:
    assert [drive_quickly(home), drive_quickly(home)] == ["ran", "cached"]
    set_params(home.params, {"common.loop.head_lr": 2e-3})
    assert drive_quickly(home) == "cached"  # evaluate trains nothing
    set_params(home.params, {"common.device": "cpu"})
    assert drive_quickly(home) == "ran"
    set_params(home.params, {"common.seed": 4})
    assert drive_quickly(home) == "ran"
    assert (home.evaluation / "seed").read_text() == "4"


def test_a_workspace_of_before_that_gets_a_common_section_is_watched_for_it_too(earlier: Workspace) -> None:
    assert [drive_quickly(earlier), drive_quickly(earlier)] == ["ran", "cached"]
    written = yaml.safe_load(earlier.params.read_text())
    del written["evaluate"]["seed"]
    earlier.params.write_text(yaml.safe_dump(written | {COMMON: {"seed": 7}}))
    assert [drive_quickly(earlier), drive_quickly(earlier)] == ["ran", "cached"]
    assert list_watched(earlier, "evaluate") == ["common.seed"]
    set_params(earlier.params, {"common.seed": 8})
    assert drive_quickly(earlier) == "ran"
    assert (earlier.evaluation / "seed").read_text() == "8"


def test_a_graph_of_now_with_parameters_of_before_is_brought_in_line_and_its_comments_stay(home: Workspace) -> None:
    graph = home.root / "dvc.yaml"
    now, params = graph.read_text(), home.params.read_text()
    written = yaml.safe_load(params)
    common = written.pop(COMMON)
    home.params.write_text(yaml.safe_dump(written))
    watch_inherited(home)
    assert graph.read_text() == "".join(line for line in now.splitlines(True) if f"- {COMMON}." not in line)
    home.params.write_text(yaml.safe_dump(written | {COMMON: {"loop": common["loop"], "seed": 0}}))
    watch_inherited(home)
    assert list_watched(home, "finetune") == ["common.seed", "common.loop"]
    home.params.write_text(params)
    watch_inherited(home)
    assert {stage: list_watched(home, stage) for stage in INHERITED} == {
        stage: [f"{COMMON}.{key}" for key in keys] for stage, keys in INHERITED.items()
    }


def test_a_refused_run_takes_the_watched_keys_back_with_its_settings(earlier: Workspace) -> None:
    written = yaml.safe_load(earlier.params.read_text())
    del written["split"]["seed"]
    earlier.params.write_text(yaml.safe_dump(written))
    before = (earlier.root / "dvc.yaml").read_bytes()
    with pytest.raises(ParamsError), hold_terms(earlier, Terms("train", {"common.seed": 3})):
        watch_inherited(earlier)
        assert list_watched(earlier, "split") == ["common.seed"]
        raise ParamsError("refused")
    assert (earlier.root / "dvc.yaml").read_bytes() == before


def test_an_inherited_key_that_is_edited_while_its_stage_runs_is_found(home: Workspace) -> None:
    drive_quickly(home)

    def edit(home: Workspace) -> None:
        write_seed(home)
        home.params.write_text(home.params.read_text().replace("  seed: 1", "  seed: 2"))

    set_params(home.params, {"common.seed": 1})
    with pytest.raises(GraphError, match="edited while the stage ran"):
        drive_stage(home, "evaluate", edit)


def test_a_renamed_key_of_the_file_is_read_and_named(home: Workspace, renamed: None, caplog) -> None:
    text = home.params.read_text()
    home.params.write_text(text.replace("bootstrap: 2000", "resamples: 770").replace("head_lr: 0.001", "lr: 0.5"))
    with caplog.at_level(logging.WARNING):
        params = load_params(home.params)
        assert read_section(home.params, "evaluate", EvaluateConfig) == params.evaluate
    assert (params.evaluate.bootstrap, params.certify.loop.head_lr) == (770, 0.5)
    assert "evaluate.resamples is called evaluate.bootstrap now" in caplog.text
    assert "common.loop.lr is called common.loop.head_lr now" in caplog.text
    home.params.write_text(text.replace("bootstrap: 2000", "bootstrap: 2000\n  resamples: 770"))
    assert load_params(home.params).evaluate.bootstrap == 2000


def test_a_renamed_key_is_accepted_on_the_command_line_and_renamed_in_the_file(
    home: Workspace, renamed: None, caplog
) -> None:
    text = home.params.read_text()
    asked = parse_assignments(["evaluate.resamples=880"])
    require_known(asked)
    for old in (text, text.replace("bootstrap: 2000", "resamples: 770")):
        home.params.write_text(old)
        with caplog.at_level(logging.WARNING), hold_terms(home, Terms("train", asked)):
            assert load_params(home.params).evaluate.bootstrap == 880
        assert "  bootstrap: 880\n" in home.params.read_text()
        assert "resamples:" not in home.params.read_text()
    assert "evaluate.resamples is called evaluate.bootstrap now" in caplog.text


def test_a_renamed_key_stays_in_its_group() -> None:
    # DVC watches a stage's own section: a key that moved to another one would be read and not watched.
    assert all(old.rpartition(".")[0] == new.rpartition(".")[0] for old, new in RENAMED.items())


def test_the_shared_keys_are_written_once(home: Workspace) -> None:
    written = yaml.safe_load(home.params.read_text())
    assert {section for section in INHERITED if set(SHARED) & set(written[section])} == set()
