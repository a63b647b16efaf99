"""What lies behind the door: uploads are decoded as the model that answers wants them."""

import asyncio
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regraft.serving.decoding.preprocess import PreprocessSpec
from regraft.serving.decoding.value_range import ValueRange
from regraft.serving.endpoint.engine import Engine
from regraft.serving.endpoint.settings import ServiceSettings
from regraft.serving.http.problems import ProblemError
from regraft.serving.log.reader import read_window
from regraft.serving.registry.registry import Registry

SPEC = PreprocessSpec(size_px=16, fit="squash", interpolation="bilinear", value_range=ValueRange(integer_bits=12))


@pytest.fixture(scope="module")
def engine(tmp_path_factory, make_bundle):
    """One for the file: its counters are the process's."""
    root = tmp_path_factory.mktemp("engine")
    registry = Registry(root / "models" / "store")
    registry.promote(registry.register(make_bundle(root / "bundle", spec=SPEC)), by="test", reason="test")
    engine = Engine(ServiceSettings(workspace=root, threads=1, max_pixels=400))
    engine.start()
    yield engine
    engine.close()


def ask(engine: Engine, path: Path, values: np.ndarray):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())
    return asyncio.run(engine.predict(path))


def test_a_12_bit_upload_is_answered_and_logged_as_its_8_bit_original(engine, tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (18, 20), dtype=np.uint8)
    plain, deep = ask(engine, tmp_path / "a", grey), ask(engine, tmp_path / "b", grey.astype(np.uint16) * 16)
    assert deep.probabilities == plain.probabilities
    window = read_window(engine.settings.log_path, version=plain.version, limit=9)
    assert np.array_equal(window.quality[0], window.quality[1])


def test_an_upload_on_another_scale_is_refused_with_its_reason(engine, tmp_path):
    with pytest.raises(ProblemError) as caught:
        ask(engine, tmp_path / "a", np.full((18, 20), 60_000, np.uint16))
    assert (caught.value.status, caught.value.code) == (422, "out_of_range")


def test_an_upload_above_the_limit_of_pixels_is_refused(engine, tmp_path):
    with pytest.raises(ProblemError) as caught:
        ask(engine, tmp_path / "a", np.zeros((21, 20), np.uint8))
    assert caught.value.status == 413
