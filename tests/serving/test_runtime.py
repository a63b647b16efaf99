"""A model is put to work only after it has given its golden answers."""

import io
import json

import numpy as np
import onnx
import pytest
from PIL import Image

from regraft.serving.bundle.format import BundleError, open_bundle, seal_bundle
from regraft.serving.bundle.runtime import ModelHandle
from regraft.serving.bundle.ties import find_turned
from regraft.serving.decoding.preprocess import PreprocessSpec, load_input, open_input


def reseal(folder) -> None:
    info = open_bundle(folder, verify=False).info
    (folder / "bundle.json").unlink()
    seal_bundle(folder, info.model_dump(exclude={"version", "files", "labels_sha256", "preprocess_sha256"}))


def rewrite_model(folder, change) -> None:
    model = onnx.load_model(folder / "model.onnx")
    change(model)
    onnx.save_model(model, folder / "model.onnx")
    reseal(folder)


@pytest.fixture(scope="module")
def handle(tmp_path_factory, make_bundle) -> ModelHandle:
    return ModelHandle.open(make_bundle(tmp_path_factory.mktemp("runtime") / "b"), threads=1)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_answers_equal_plain_numpy_in_every_batch_size(handle, size):
    batch = np.random.default_rng(size).integers(0, 255, (size, 16, 16, 3), dtype=np.uint8)
    answer = handle.predict(batch)
    mean = batch.reshape(size, -1, 3).mean(axis=1) / 255
    expected = np.exp(8 * mean) / np.exp(8 * mean).sum(axis=1, keepdims=True)
    assert np.abs(answer.probabilities - expected).max() < 1e-5
    assert np.abs(answer.embedding - mean).max() < 1e-5
    assert answer.probabilities.dtype == np.float32 and answer.logits.shape == (size, 3)


def test_embeddings_are_reduced_with_the_references_components(handle):
    assert np.allclose(handle.reduce(np.array([[0.7, 0.1, 0.9]], np.float32)), [[0.2, -0.4]])


def test_an_image_of_a_label_gets_that_label(handle, colour_image):
    batch = np.stack([load_input(colour_image(label), handle.info.preprocess) for label in ("red", "green", "blue")])
    assert handle.predict(batch).probabilities.argmax(1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("batch", [np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 16, 16, 3), np.float32)])
def test_other_shapes_and_types_are_named(handle, batch):
    with pytest.raises(ValueError, match=r"expected uint8 \(B, 16, 16, 3\)"):
        handle.predict(batch)


def test_golden_answers_off_by_more_than_the_tolerance_are_refused(tmp_path, make_bundle):
    folder = make_bundle(tmp_path / "b")
    answers = json.loads((folder / "golden" / "answers.json").read_text())
    for shift, accepted in ((0.0009, True), (0.0012, False)):
        answers[0]["probabilities"][0] -= shift
        (folder / "golden" / "answers.json").write_text(json.dumps(answers))
        answers[0]["probabilities"][0] += shift
        reseal(folder)
        if accepted:
            ModelHandle.open(folder)
        else:
            with pytest.raises(BundleError, match=r"golden answers differ by 0\.0012"):
                ModelHandle.open(folder)


def test_a_golden_image_that_changed_its_look_is_refused(tmp_path, make_bundle, colour_image):
    folder = make_bundle(tmp_path / "b")
    (folder / "golden" / "00.png").write_bytes(colour_image("green", kind="PNG"))
    reseal(folder)
    with pytest.raises(BundleError, match="1 of 3 golden images get another label"):
        ModelHandle.open(folder)


def test_an_unreadable_golden_image_is_refused(tmp_path, make_bundle):
    folder = make_bundle(tmp_path / "b")
    (folder / "golden" / "01.png").write_bytes(b"not an image")
    reseal(folder)
    with pytest.raises(BundleError, match="golden images cannot be read"):
        ModelHandle.open(folder)


def test_a_graph_made_for_another_preprocessing_is_refused(tmp_path, make_bundle):
    folder = make_bundle(tmp_path / "b")
    rewrite_model(folder, lambda model: onnx.helper.set_model_props(model, {"preprocess_sha256": "0" * 64}))
    with pytest.raises(BundleError, match=r"preprocess_sha256 0000.*labels_sha256 None"):
        ModelHandle.open(folder)


def test_a_graph_with_a_fixed_batch_size_is_refused(tmp_path, make_bundle):
    folder = make_bundle(tmp_path / "b")

    def fix(model) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1

    rewrite_model(folder, fix)
    with pytest.raises(BundleError, match="dynamic first axis"):
        ModelHandle.open(folder)


def test_a_graph_of_another_input_size_is_refused(tmp_path, make_bundle):
    folder = make_bundle(tmp_path / "b")
    info = open_bundle(folder).info.model_dump(exclude={"version", "files", "labels_sha256", "preprocess_sha256"})
    (folder / "bundle.json").unlink()
    seal_bundle(folder, info | {"preprocess": PreprocessSpec(size_px=20, fit="squash", interpolation="bilinear")})
    with pytest.raises(BundleError, match=r"not uint8 \[B, 20, 20, 3\]"):
        ModelHandle.open(folder)


def test_a_model_that_is_no_onnx_is_refused(tmp_path, make_bundle):
    folder = make_bundle(tmp_path / "b")
    (folder / "model.onnx").write_bytes(b"not onnx at all")
    reseal(folder)
    with pytest.raises(BundleError, match="cannot be loaded"):
        ModelHandle.open(folder)


def test_a_reference_with_pickled_objects_is_refused(tmp_path, make_bundle):
    folder = make_bundle(tmp_path / "b")
    np.savez(folder / "reference.npz", embedding_mean=np.array([{}], dtype=object), embedding_components=np.eye(3))
    reseal(folder)
    with pytest.raises(BundleError, match="allow_pickle"):
        ModelHandle.open(folder)


def test_a_changed_file_is_refused_before_anything_is_loaded(tmp_path, make_bundle):
    folder = make_bundle(tmp_path / "b")
    (folder / "model.onnx").write_bytes(b"changed")
    with pytest.raises(BundleError, match=r"model\.onnx was changed"):
        ModelHandle.open(folder)


def test_a_tie_within_the_tolerance_is_no_other_label(tmp_path, make_bundle):
    folder = make_bundle(tmp_path / "b")
    yellow = io.BytesIO()
    Image.new("RGB", (20, 20), (200, 200, 30)).save(yellow, "PNG")  # red and green are exactly as likely
    (folder / "golden" / "00.png").write_bytes(yellow.getvalue())
    answers = json.loads((folder / "golden" / "answers.json").read_text())
    odds = np.exp(8 * np.array([200, 200, 30]) / 255)
    for lead, accepted in ((4e-4, True), (2.2e-3, False)):  # the latter is over the tolerance as well
        answers[0]["probabilities"] = (odds / odds.sum() + [-lead / 2, lead / 2, 0]).tolist()
        (folder / "golden" / "answers.json").write_text(json.dumps(answers))
        reseal(folder)
        if accepted:
            ModelHandle.open(folder)
        else:
            with pytest.raises(BundleError, match="golden answers differ"):
                ModelHandle.open(folder)


def test_golden_answers_that_are_not_numbers_are_refused(tmp_path, make_bundle):
    folder = make_bundle(tmp_path / "b")
    answers = json.loads((folder / "golden" / "answers.json").read_text())
    answers[2]["probabilities"] = [float("nan")] * 3
    (folder / "golden" / "answers.json").write_text(json.dumps(answers))
    reseal(folder)
    with pytest.raises(BundleError, match="golden answers differ by nan"):
        ModelHandle.open(folder)


@pytest.mark.parametrize(
    ("wanted", "got", "turned"),
    [
        ([0.5, 0.499999, 0.1], [0.499999, 0.5, 0.1], False),
        ([0.5, 0.4995, 0.1], [0.4995, 0.5, 0.1], False),
        ([0.5, 0.498, 0.1], [0.498, 0.5, 0.1], True),
        ([0.9, 0.1, 0.0], [0.1, 0.9, 0.0], True),
        ([0.9, 0.1, 0.0], [0.8, 0.2, 0.0], False),
        ([0.9, 0.1, 0.0], [np.nan, 0.9, 0.0], False),
        ([0.9, 0.1, 0.0], [0.1, np.nan, 0.0], True),
    ],
)
def test_another_class_is_named_unless_the_two_are_tied(wanted, got, turned):
    assert find_turned(np.array([wanted]), np.array([got]), 1e-3).tolist() == [turned]


def test_golden_images_are_read_whatever_the_usual_limit_of_pixels(tmp_path, make_bundle):
    folder, image = make_bundle(tmp_path / "b"), io.BytesIO()
    Image.new("RGB", (5200, 4900), (30, 220, 30)).save(image, "PNG")  # more than 25 million
    spec = open_bundle(folder).info.preprocess
    assert open_input(image.getvalue(), spec).width == 5200  # as the report shows them
    batch = load_input(image.getvalue(), spec)[None]
    said = ModelHandle.open(folder, threads=1).predict(batch).probabilities[0]
    answers = json.loads((folder / "golden" / "answers.json").read_text())
    answers[0] |= {"label": "green", "probabilities": said.tolist()}
    (folder / "golden" / "00.png").write_bytes(image.getvalue())
    (folder / "golden" / "answers.json").write_text(json.dumps(answers))
    reseal(folder)
    assert ModelHandle.open(folder, threads=1).predict(batch).probabilities.argmax() == 1
