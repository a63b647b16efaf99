"""The Python API, used as a notebook or a script would use it: on a trained workspace and a real endpoint."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import regraft
from regraft.client import EndpointError
from regraft.flows.server.stack import endpoint_settings, free_port
from regraft.serving.process.process import start_service, stop_service, wait_ready
from regraft.tasks.workspace.workspace import Workspace

HEAVY = {"torch", "timm", "prefect", "dvc", "bentoml", "numpy", "pandas", "sklearn", "great_expectations"}


@pytest.fixture(scope="module")
def picture(images: Path) -> Path:
    return sorted(path for path in images.rglob("*") if path.is_file())[0]


@pytest.fixture(scope="module")
def endpoint(trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An endpoint of its own copy: what it logs must not be traffic of the workspace that other tests copy."""
    home = Workspace(tmp_path_factory.mktemp("api") / "w")
    shutil.copytree(trained.home.root, home.root, symlinks=True)
    port = free_port()
    log = home.logs / "api.log"
    process = start_service(home.root, port, log=log, settings=endpoint_settings(home))
    try:
        wait_ready(f"http://127.0.0.1:{port}", 120, process=process, log=log)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop_service(process)


def test_the_import_is_light() -> None:
    code = f"import sys, regraft; dir(regraft); assert not {HEAVY!r} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="predictor"):
        regraft.predictor  # noqa: B018


def test_a_run_shows_itself_and_prints_nothing(copied, capfd) -> None:
    run = regraft.train(workspace=copied.home.root)
    assert run.version == copied.answer["version"] and run.promoted and run.reason
    assert run.metrics["accuracy"] == copied.answer["metrics"]["test"]["accuracy"]
    assert run.metrics["accuracy_low"] <= run.metrics["accuracy"] <= run.metrics["accuracy_high"]
    assert run.report.is_file()
    shown = run._repr_html_()
    assert run.version in shown and "&lt;svg" in shown and "<iframe sandbox " in shown
    assert capfd.readouterr().out == ""


def test_errors_are_those_of_the_command_line(tmp_path: Path, copied) -> None:
    mistakes = {
        "nowhere": lambda: regraft.train(tmp_path / "nowhere", workspace=tmp_path / "w"),
        "epocs": lambda: regraft.train(workspace=copied.home.root, settings={"finetune.epocs": 3}),
        "klasses_at": lambda: regraft.train(workspace=copied.home.root, layout={"klasses_at": 1}),
        "12 parsecs": lambda: regraft.train(workspace=copied.home.root, time_budget="12 parsecs"),
        "not a workspace": lambda: regraft.watch(tmp_path),
        "previous": lambda: regraft.rollback(copied.home.root),
    }
    for said, make in mistakes.items():
        with pytest.raises(Exception, match=said) as caught:
            make()
        assert caught.value.exit_code == 2, said


def test_labels_that_are_too_few_make_no_version(copied) -> None:
    run = regraft.retrain(copied.home.root)
    assert (run.version, run.promoted, run.metrics, run.report) == (None, False, {}, None)
    assert run.decision == "not enough labels" and run.reason in run._repr_html_()


def test_a_model_answers_files_arrays_and_pillow_images_alike(copied, picture: Path, run_regraft) -> None:
    model = regraft.load(copied.home.root)
    said = json.loads(run_regraft("predict", str(picture), "-w", str(copied.home.root), "--json").stdout)[0]
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    answers = model.predict([picture, str(picture), picture.read_bytes(), pixels, Image.open(picture)])
    assert {answer.label for answer in answers} == {said["label"]}
    # Of a batch the last digits may differ from those of a single image.
    for answer in (*answers, model.predict(picture)):
        assert answer.probabilities == pytest.approx(said["probabilities"], abs=1e-6)
    assert model.predict(pixels) == model.predict(picture)
    assert model.version == copied.answer["version"] and answers[0].label in model.labels
    assert model.metrics["accuracy"] == copied.answer["metrics"]["test"]["accuracy"]


def test_a_version_or_a_bundle_is_loaded_by_name(copied, tmp_path: Path, picture: Path) -> None:
    version = copied.answer["version"]
    by_prefix = regraft.load(copied.home.root, version[:6])
    bundle = regraft.load(copied.home.models_store / "versions" / version)
    assert by_prefix.version == bundle.version == version
    assert by_prefix.predict(picture) == bundle.predict(picture)
    with pytest.raises(Exception, match="not a workspace"):
        regraft.load(tmp_path)
    with pytest.raises(Exception, match="zzzz"):
        regraft.load(copied.home.root, "zzzz")


def test_what_is_no_image_is_refused_by_name(copied, tmp_path: Path) -> None:
    model = regraft.load(copied.home.root)
    with pytest.raises(TypeError, match="float64"):
        model.predict(np.zeros((4, 4, 3)))
    with pytest.raises(TypeError, match="int"):
        model.predict([7])
    with pytest.raises(FileNotFoundError):
        model.predict(tmp_path / "none.png")
    with pytest.raises(Exception, match="image"):
        model.predict(b"no image")


def test_a_client_asks_and_labels(endpoint: str, picture: Path, trained) -> None:
    with regraft.Client(endpoint) as client:
        answer = client.predict(picture)
        assert answer.version == trained.answer["version"] == client.version()["version"]
        assert client.predict(np.asarray(Image.open(picture).convert("RGB"))).label == answer.label
        receipt = client.feedback(answer, answer.label)
        assert (receipt.predicted, receipt.trainable) == (answer.label, True)
        with pytest.raises(EndpointError, match="blue moon") as caught:
            client.feedback(answer.id, "blue moon")
        assert caught.value.status == 422 and caught.value.code
        with pytest.raises(EndpointError) as caught:
            client.predict(b"no image")
        assert caught.value.status in (400, 415, 422)


def test_an_asynchronous_client_asks_side_by_side(endpoint: str, picture: Path) -> None:
    async def ask() -> list[str]:
        async with regraft.AsyncClient(endpoint) as client:
            answers = await asyncio.gather(*(client.predict(picture) for _ in range(8)))
            receipt = await client.feedback(answers[0], answers[0].label)
            assert receipt.id == answers[0].id and (await client.version())["version"] == answers[0].version
            return [answer.label for answer in answers]

    assert len(set(asyncio.run(ask()))) == 1


def test_a_client_without_an_endpoint_says_how_to_start_one() -> None:
    client = regraft.Client(f"http://127.0.0.1:{free_port()}")
    with client, pytest.raises(EndpointError, match="regraft serve"):
        client.predict(b"x")


def test_a_version_is_promoted_by_hand_by_its_first_digits(copied) -> None:
    version = copied.answer["version"]
    assert regraft.promote(version[:8], copied.home.root, reason="asked by the plant").champion == version
    with pytest.raises(Exception, match="zzzz") as caught:
        regraft.promote("zzzz", copied.home.root)
    assert caught.value.exit_code == 2
