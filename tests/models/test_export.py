"""The exported file is the same everywhere, answers as torch does, and does not exist where it does not."""

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from regraft.models.export.onnx import (
    CheckImages,
    ExportConfig,
    ExportError,
    ParityError,
    build_onnx,
    check_parity,
    export_onnx,
    judge_parity,
    start_session,
    trace_classifier,
)
from regraft.serving.bundle.format import hash_labels
from regraft.serving.decoding.preprocess import PreprocessSpec

SPEC = PreprocessSpec(size_px=16, fit="squash", interpolation="bicubic")
LABELS = ["ant", "bee", "wasp"]


class Tiny(torch.nn.Module):
    """The smallest network with a classifier's signature."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.body = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
        self.head = torch.nn.Linear(8, 3)
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator))

    def forward(self, pixels):
        """Return probabilities, embedding and logits of uint8 (B, S, S, 3)."""
        embedding = self.body(pixels.permute(0, 3, 1, 2).float() / 255 - 0.5).mean(dim=(2, 3))
        logits = self.head(embedding)
        return torch.softmax(logits / 1.5, dim=1), embedding, logits


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return Tiny().eval()


@pytest.fixture(scope="module")
def exported(tiny) -> bytes:
    return build_onnx(tiny, SPEC, LABELS, ExportConfig().opset)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (19, 16, 16, 3), dtype=np.uint8)


def test_the_graph_takes_pixels_in_any_batch_and_gives_the_three_outputs(exported, tiny, pixels):
    session = start_session(exported, threads=1)
    assert [(value.name, value.type, value.shape[1:]) for value in session.get_inputs()] == [
        ("image", "tensor(uint8)", [16, 16, 3])
    ]
    for size in (1, 2, 5, 19):
        got = dict(
            zip([v.name for v in session.get_outputs()], session.run(None, {"image": pixels[:size]}), strict=True)
        )
        with torch.inference_mode():
            wanted = tiny(torch.from_numpy(pixels[:size]))
        for name, values in zip(("probabilities", "embedding", "logits"), wanted, strict=True):
            assert got[name].dtype == np.float32
            assert np.abs(got[name] - values.numpy()).max() < 1e-4, name


def test_the_file_names_its_preprocessing_and_labels_and_nothing_of_this_machine(exported, tiny):
    model = onnx.load_from_string(exported)
    properties = {item.key: item.value for item in model.metadata_props}
    assert properties == {"labels_sha256": hash_labels(LABELS), "preprocess_sha256": SPEC.sha256}
    traces = [b"test_export.py", os.fsencode(Path.cwd()), b"stack_trace", b"site-packages"]
    assert not [trace for trace in traces if trace in exported]
    raw = trace_classifier(tiny, 16, 20).SerializeToString()
    assert b"test_export.py" in raw  # what stripping is for


@pytest.mark.slow
def test_another_process_elsewhere_writes_the_same_bytes(exported, tmp_path):
    code = (
        "import sys, hashlib; sys.path[:0] = sys.argv[1:3]\n"
        "from test_export import *\n"
        "print(hashlib.sha256(build_onnx(Tiny().eval(), SPEC, LABELS, 20)).hexdigest())"
    )
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONHASHSEED": "5", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, str(here), str(here.parents[1])]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == hashlib.sha256(exported).hexdigest(), run.stderr


def test_other_weights_give_other_bytes(tiny, exported):
    other = Tiny().eval()
    with torch.no_grad():
        other.head.bias[0] += 1e-3
    assert build_onnx(other, SPEC, LABELS, 20) != exported


def test_parity_is_checked_on_all_images_in_another_batch_size(exported, tiny, pixels):
    seen = []
    parity = check_parity(exported, tiny, CheckImages(pixels), progress=lambda done, total: seen.append((done, total)))
    assert parity.decision == "equal"
    assert (parity.n, parity.batch_size, parity.argmax_equal) == (19, 7, True)
    assert parity.max_abs_diff < 1e-5 < parity.threshold
    assert seen == [(7, 19), (14, 19), (19, 19)]
    assert parity.to_json()["n"] == 19


def test_parity_finds_a_changed_answer_and_a_changed_probability(exported, tiny, pixels):
    with torch.inference_mode():
        right = tiny(torch.from_numpy(pixels))[0].numpy()
    assert check_parity(exported, tiny, CheckImages(pixels, right)).decision == "equal"
    shifted = right.copy()
    shifted[18] = np.roll(right[18], 1)
    with pytest.raises(ParityError, match="another class on 1 of 19") as caught:
        check_parity(exported, tiny, CheckImages(pixels, shifted))
    assert not caught.value.parity.argmax_equal
    with pytest.raises(ParityError) as caught:
        check_parity(exported, tiny, CheckImages(pixels, right + 1e-6), ExportConfig(tolerance=1e-9))
    assert caught.value.parity.argmax_equal
    assert pickle.loads(pickle.dumps(caught.value)).parity == caught.value.parity
    with pytest.raises(ValueError, match="held-out images"):
        check_parity(exported, tiny, CheckImages(pixels[:0]))


def test_a_tie_within_the_tolerance_is_no_difference():
    wanted, got = np.array([[0.5000005, 0.4999995], [0.9, 0.1]]), np.array([[0.4999995, 0.5000005], [0.9, 0.1]])
    assert judge_parity(wanted, got, ExportConfig()).decision == "equal"
    strict = judge_parity(wanted, got, ExportConfig(tolerance=1e-7))
    assert strict.decision == "different" and "another class on 1 of 2" in strict.reason


def test_answers_that_are_not_numbers_are_not_parity(pixels):
    broken = Tiny().eval()
    with torch.no_grad():
        broken.head.weight.fill_(float("nan"))
    with pytest.raises(ParityError, match="inf"):
        check_parity(build_onnx(broken, SPEC, LABELS, 20), broken, CheckImages(pixels))


def test_no_file_is_written_without_parity(tiny, pixels, tmp_path):
    wrong = np.full((19, 3), 1 / 3)
    with pytest.raises(ParityError):
        export_onnx(tiny, SPEC, LABELS, tmp_path, CheckImages(pixels, wrong))
    assert list(tmp_path.iterdir()) == []
    parity = export_onnx(tiny, SPEC, LABELS, tmp_path, CheckImages(pixels))
    assert parity.decision == "equal"
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert check_parity(tmp_path / "model.onnx", tiny, CheckImages(pixels)) == parity


def test_what_torch_cannot_export_is_told_with_what_to_do():
    class Branching(Tiny):
        """Depends on the data in Python."""

        def forward(self, pixels):
            """Branch on a value."""
            return super().forward(pixels) if pixels.float().mean() > 3 else super().forward(pixels + 1)

    with pytest.raises(ExportError, match="Choose another backbone"):
        build_onnx(Branching().eval(), SPEC, LABELS, 20)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["tf_mobilenetv3_large_minimal_100.in1k", "vit_tiny_patch16_224.augreg_in21k_ft_in1k"],
)
def test_a_real_backbone_answers_alike_in_onnx(shared, name, tmp_path):
    from regraft.models.backbones.network import Normalization, build_backbone
    from regraft.models.classifier.checkpoint import Classifier

    backbone = build_backbone(shared / "backbones" / name)
    spec = PreprocessSpec(size_px=224, fit="squash", interpolation="bicubic")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    features = backbone(torch.zeros(1, 3, 224, 224)).shape[1]
    classifier = Classifier(backbone, Normalization((0.5,) * 3, (0.25,) * 3), features, 6).eval()
    with torch.no_grad():
        classifier.head.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
    parity = export_onnx(classifier, spec, list("abcdef"), tmp_path, CheckImages(pixels))
    assert parity.argmax_equal
    assert parity.max_abs_diff < 1e-4
