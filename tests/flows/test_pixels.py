"""How bright and how large an image may be is decided once, and holds from the first stage to the endpoint."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regraft.flows.asking import ask_champion
from regraft.flows.server.stack import endpoint_settings
from regraft.models.selection.result import load_selection
from regraft.serving.bundle.format import open_bundle
from regraft.serving.decoding.preprocess import MOST_PIXELS, load_input
from regraft.serving.decoding.value_range import ValueRange
from regraft.serving.endpoint.settings import ServiceSettings
from regraft.tasks.planning.intake import take_in
from regraft.tasks.settings.params import ParamsError, load_params, set_params
from regraft.tasks.stages.ingest import ingest
from regraft.tasks.stages.select import select
from regraft.tasks.stages.split import split
from regraft.tasks.stages.validate import validate

STRIPES = {"cat": 3, "dog": 6, "owl": 10}


def draw(label: str, seed: int, size: int = 48) -> np.ndarray:
    x = np.arange(size) + seed % 7
    wave = 128 + 90 * np.sin(2 * np.pi * STRIPES[label] * x / size)
    noise = np.random.default_rng(seed).normal(0, 6, (size, size))
    return np.clip(wave[None] + noise, 0, 255).astype(np.uint8)


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """8-bit values: of one class in 8-bit files, of the others in 16-bit ones."""
    root = tmp_path_factory.mktemp("mixed") / "images"
    for label in STRIPES:
        for seed in range(14):
            values = draw(label, seed)
            save(root / label / f"{seed:02}.png", values if label == "cat" else values.astype(np.uint16))
    return root


@pytest.mark.slow
def test_the_range_of_a_data_set_becomes_part_of_the_preprocessing_that_is_chosen(make_workspace, mixed) -> None:
    home = make_workspace("range")
    take_in(home, mixed)
    for stage in (ingest, validate, split, select):
        stage.run(home)
    chosen, _ = load_selection(home.selection)
    spec = chosen.winner.preprocess
    assert spec.value_range == ValueRange(integer_bits=8)
    # A class that decoded to black could not be told from another one.
    assert chosen.winner.score > 0.9
    deep, plain = (save(mixed.parent / f"{kind}.png", draw("owl", 99).astype(kind)) for kind in ("uint16", "uint8"))
    assert np.array_equal(load_input(deep.read_bytes(), spec), load_input(plain.read_bytes(), spec))


@pytest.mark.slow
def test_a_version_of_16_bit_copies_answers_alike_for_copies_and_originals(
    make_workspace, run_regraft, mixed, tmp_path
) -> None:
    home = make_workspace("deep")
    result = run_regraft("train", "--workspace", str(home.root), "--data", str(mixed), "--json")
    assert result.returncode == 0, result.stderr[-3000:]
    version = json.loads(result.stdout)["version"]
    spec = open_bundle(home.models_store / "versions" / version).info.preprocess
    assert spec.value_range == ValueRange(integer_bits=8)
    pairs = [
        [save(tmp_path / f"{label}_{kind}.png", draw(label, 50).astype(kind)) for kind in ("uint8", "uint16")]
        for label in STRIPES
    ]
    for label, pair in zip(STRIPES, pairs, strict=True):
        plain, deep = ask_champion(home, pair)
        assert plain["label"] == deep["label"] == label
        assert plain["probabilities"] == deep["probabilities"]
    other_scale = save(tmp_path / "scaled.png", draw("owl", 50).astype(np.uint16) * 257)
    assert ask_champion(home, [other_scale])[0]["code"] == "out_of_range"


def test_predict_and_the_endpoint_hold_the_limit_of_pixels_that_ingest_holds(copied, monkeypatch) -> None:
    image = sorted(path for path in copied.images.rglob("*") if path.is_file())[0]
    set_params(copied.home.params, {"ingest.max_pixels": 1000})
    answer = ask_champion(copied.home, [image])[0]
    assert answer["code"] == "too_large" and "at most 1000" in answer["error"]
    set_params(copied.home.params, {"ingest.max_pixels": 25_000_000, "ingest.max_bytes": 100})
    assert "at most 100 are read" in ask_champion(copied.home, [image])[0]["error"]
    set_params(copied.home.params, {"ingest.max_pixels": 1000})
    for name, value in endpoint_settings(copied.home).items():
        monkeypatch.setenv(name, value)
    assert ServiceSettings().max_pixels == 1000


def test_a_limit_of_pixels_that_nothing_could_hold_is_refused_when_it_is_set(make_workspace) -> None:
    home = make_workspace("limit")
    set_params(home.params, {"ingest.max_pixels": MOST_PIXELS})
    with pytest.raises(ParamsError, match=r"ingest\.max_pixels.*less than or equal to 100000000"):
        set_params(home.params, {"ingest.max_pixels": MOST_PIXELS + 1})
    assert load_params(home.params).ingest.max_pixels == MOST_PIXELS


def test_a_file_of_before_with_a_limit_for_the_endpoint_alone_still_works_and_says_so(make_workspace, caplog) -> None:
    home = make_workspace("before")
    home.params.write_text(home.params.read_text().replace("serve:\n", "serve:\n  max_pixels: 9000000\n"))
    with caplog.at_level(logging.WARNING):
        assert load_params(home.params).ingest.max_pixels == 25_000_000
    assert "serve.max_pixels = 9000000 is no longer read; ingest.max_pixels" in caplog.text
    set_params(home.params, {"finetune.seed": 3})
    assert load_params(home.params).finetune.seed == 3
    with pytest.raises(ParamsError, match=r"serve\.max_pixels is no parameter any more"):
        set_params(home.params, {"serve.max_pixels": 5})
