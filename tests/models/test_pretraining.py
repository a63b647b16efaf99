"""Pretraining: resumable to the bit; the committed backbone is what its page says and beats random weights."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import regraft.models.embedded
from regraft.models.backbones.network import build_architecture, build_backbone, read_input
from regraft.models.features.adabn import adapt_batchnorm
from regraft.models.features.extract import extract_features
from regraft.models.features.linear_probe import fit_probe
from regraft.models.pretraining.supervised import (
    RecipeConfig,
    list_batch_rows,
    pretrain_backbone,
    schedule_rate,
    seed_step,
)
from regraft.models.pretraining.views import ViewConfig, make_views

EMBEDDED = sorted(path.parent for path in Path(regraft.models.embedded.__file__).parent.glob("*/model.safetensors"))
TINY = RecipeConfig(
    architecture="test_resnet",
    model_args={},
    tag="tiny",
    input_px=32,
    train_px=32,
    steps=6,
    batch_size=8,
    save_every_s=1e-9,
)


def stripes(count: int = 24, size: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Return fields of upright (0) and lying (1) stripes with random widths and phases."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    axis = np.arange(size)
    waves = [np.sin(axis * rng.uniform(0.4, 1.2) + rng.uniform(0, 6)) for _ in labels]
    fields = [
        np.tile(w, (size, 1)) if label == 0 else np.tile(w[:, None], (1, size))
        for w, label in zip(waves, labels, strict=True)
    ]
    return (127 + 120 * np.stack(fields)).astype(np.uint8), labels


class Killed(BaseException):
    """Stands for kill -9 between two steps."""


def test_a_killed_run_ends_with_the_bytes_of_an_undisturbed_one(tmp_path):
    fields, labels = stripes()
    whole = pretrain_backbone(fields, labels, TINY, state=tmp_path / "s1", into=tmp_path / "a")

    def kill(done: int, total: int) -> None:
        if done == 4:
            raise Killed

    with pytest.raises(Killed):
        pretrain_backbone(fields, labels, TINY, state=tmp_path / "s2", into=tmp_path / "b", progress=kill)
    assert not (tmp_path / "b").exists()
    steps = []
    again = pretrain_backbone(
        fields, labels, TINY, state=tmp_path / "s2", into=tmp_path / "b", progress=lambda done, _: steps.append(done)
    )
    assert steps == [5, 6]
    assert again.backbone.sha256 == whole.backbone.sha256
    assert not (tmp_path / "s2").exists()


def test_snapshots_of_another_recipe_are_not_continued(tmp_path):
    fields, labels = stripes()

    def kill(done: int, total: int) -> None:
        if done == 4:
            raise Killed

    with pytest.raises(Killed):
        pretrain_backbone(fields, labels, TINY, state=tmp_path / "s", into=tmp_path, progress=kill)
    steps = []
    other = TINY.model_copy(update={"learning_rate": 1e-4})
    pretrain_backbone(
        fields, labels, other, state=tmp_path / "s", into=tmp_path, progress=lambda done, _: steps.append(done)
    )
    assert steps[0] == 1


def test_the_written_folder_is_a_backbone_that_asks_for_its_size(tmp_path):
    fields, labels = stripes()
    written = pretrain_backbone(fields, labels, TINY, state=tmp_path / "s", into=tmp_path).backbone
    assert written.name == "test_resnet.tiny"
    assert hashlib.sha256((written.folder / "model.safetensors").read_bytes()).hexdigest() == written.sha256
    assert read_input(written.folder).size_px == 32
    assert json.loads((written.folder / "config.json").read_text())["pretrained_cfg"]["license"] == "Apache-2.0"
    assert build_backbone(written.folder)(torch.zeros(1, 3, 32, 32)).isfinite().all()


def test_training_learns_to_tell_stripes_apart(tmp_path):
    fields, labels = stripes()
    views = ViewConfig(max_turn=0.1, blend_share=0, max_noise=0)
    recipe = TINY.model_copy(update={"steps": 60, "batch_size": 12, "views": views, "save_every_s": 60.0})
    assert pretrain_backbone(fields, labels, recipe, state=tmp_path / "s", into=tmp_path).accuracy > 0.8


def test_every_batch_row_comes_once_per_pass():
    rows = np.concatenate([list_batch_rows(10, 4, step, seed=0) for step in range(5)])
    assert np.bincount(rows).tolist() == [2] * 10


def test_every_step_draws_its_own_views_and_again_the_same():
    draws = [torch.rand(3, generator=seed_step(0, step, torch.device("cpu"))) for step in (7, 7, 8)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_the_rate_rises_then_falls_to_nothing():
    factors = [schedule_rate(step, 100) for step in range(100)]
    assert factors[0] == 0.2 and max(factors) == 1.0 and factors[-1] < 0.001
    assert factors[5:] == sorted(factors[5:], reverse=True)


def test_views_are_the_same_for_the_same_generator_and_never_blank():
    fields = torch.from_numpy(stripes()[0])
    first, second = (make_views(fields, 32, ViewConfig(), torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second) and first.shape == (24, 3, 32, 32)
    assert first.min() >= -1 and first.max() <= 1
    assert (first.flatten(1).std(1) > 0.02).all()


def test_bad_samples_are_refused_with_every_reason():
    with pytest.raises(ValueError, match=r"uint8.*labels of shape.*1 class"):
        pretrain_backbone(np.zeros((4, 8, 8)), np.zeros(3, int), TINY, state=Path("s"), into=Path("b"))


@pytest.fixture(scope="module")
def embedded() -> Path:
    """Return the one committed backbone's folder."""
    assert len(EMBEDDED) == 1, f"expected exactly one backbone under models/embedded, found {EMBEDDED}"
    return EMBEDDED[0]


def test_the_committed_weights_are_small_and_have_the_hash_on_their_page(embedded):
    blob = (embedded / "model.safetensors").read_bytes()
    page = (embedded.parent / "README.md").read_text()
    assert len(blob) <= 4 * 1024 * 1024
    assert re.findall(r"\b[0-9a-f]{64}\b", page) == [hashlib.sha256(blob).hexdigest()]
    assert embedded.name in page


def test_the_committed_config_names_folder_licence_and_input(embedded):
    config = json.loads((embedded / "config.json").read_text())
    assert f"{config['architecture']}.{config['pretrained_cfg']['tag']}" == embedded.name
    assert config["pretrained_cfg"]["license"] == "Apache-2.0"
    assert config["pretrained_cfg"]["input_size"][1:] == [read_input(embedded).size_px] * 2


def rendered_task(classes: int = 8, per_class: int = 26, size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """Return unseen pictures: cut-outs of ellipses and bars on grain, told apart by size, number and stretch."""
    rng, x = np.random.default_rng(5), np.linspace(-1, 1, size)
    pictures, labels = [], []
    for label in range(classes):
        for _ in range(per_class):
            picture = rng.normal(0, 0.25, (size, size)) + rng.uniform(0.3, 0.6)
            for _ in range((2, 7)[label % 2]):
                angle, (cx, cy) = rng.uniform(0, np.pi), rng.uniform(-0.8, 0.8, 2)
                u = np.cos(angle) * (x[None] - cx) + np.sin(angle) * (x[:, None] - cy)
                v = np.cos(angle) * (x[:, None] - cy) - np.sin(angle) * (x[None] - cx)
                long, wide = 0.22 * (1, 1.8)[label // 2 % 2], 0.22 / (1, 4)[label // 4]
                picture += 0.4 * ((u / long) ** 2 + (v / wide) ** 2 < 1) * rng.choice([-1, 1])
            pictures.append(np.repeat(picture[..., None], 3, 2))
            labels.append(label)
    return (255 * np.clip(pictures, 0, 1)).astype(np.uint8), np.array(labels)


def probe_accuracy(backbone: torch.nn.Module, folder: Path, pixels: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of held-out pictures named rightly by a probe on 16 pictures a class."""
    normalization = read_input(folder).normalization
    adapt_batchnorm(backbone, pixels, normalization)
    features = extract_features(backbone, pixels, normalization)
    known = np.arange(len(labels)) % 26 < 16
    probe = fit_probe(features[known], labels[known], classes=8, c=0.01)
    return float((probe.score(features[~known]).argmax(1) == labels[~known]).mean())


def test_the_committed_weights_beat_random_ones_on_unseen_pictures(embedded):
    pixels, labels = rendered_task()
    torch.manual_seed(0)
    config = json.loads((embedded / "config.json").read_text())
    untrained = probe_accuracy(build_architecture(config), embedded, pixels, labels)
    assert probe_accuracy(build_backbone(embedded), embedded, pixels, labels) > untrained + 0.05
