"""Distillation: resumable to the bit, the teacher's features are approached, and a wrong teacher is told at once."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import regraft.tasks.steps.pretrain
from regraft.models.backbones.network import BackboneError, build_backbone
from regraft.models.pretraining.distillation import DistillationConfig, distil_backbone, render_scenes
from regraft.models.pretraining.mobilenet_stages import measure_scales, split_stages
from regraft.models.pretraining.scenes import SceneConfig, look_again, make_scenes
from regraft.models.pretraining.state import settle_batchnorms

TINY = DistillationConfig(
    architecture="test_efficientnet",
    model_args={},
    tag="tiny",
    input_px=32,
    train_px=32,
    scenes=8,
    stage_steps=1,
    steps=3,
    rate_horizon=1,
    batch_size=4,
    save_every_s=1e-9,
)


class Killed(BaseException):
    """Stands for kill -9 between two steps."""


@pytest.fixture
def fields() -> np.ndarray:
    """Return smooth grey fields."""
    coarse = torch.rand(6, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, (40, 40), mode="bilinear")
    return (255 * smooth[:, 0]).numpy().astype(np.uint8)


@pytest.fixture
def teacher(tmp_path, make_backbone, fields) -> Path:
    """Return the folder of a small network of the learner's family whose features vary: its BatchNorms are settled."""
    folder = make_backbone(tmp_path / "teachers", "test_efficientnet.tiny", seed=1).folder
    network = build_backbone(folder)
    settle_batchnorms(network, [render_scenes(fields, TINY, torch.device("cpu")).float() / 127.5 - 1])
    save_file(network.state_dict(), folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("moment", [2, 7], ids=["among the stages", "in the whole network"])
def test_a_killed_run_ends_with_the_bytes_of_an_undisturbed_one(tmp_path, fields, teacher, moment):
    whole = distil_backbone(fields, teacher, TINY, state=tmp_path / "s1", into=tmp_path / "a")

    def kill(done: int, total: int) -> None:
        if done == moment + 1:  # the snapshot after ``moment`` is complete, this step is lost
            raise Killed

    with pytest.raises(Killed):
        distil_backbone(fields, teacher, TINY, state=tmp_path / "s2", into=tmp_path / "b", progress=kill)
    assert not (tmp_path / "b").exists()
    steps = []
    again = distil_backbone(
        fields, teacher, TINY, state=tmp_path / "s2", into=tmp_path / "b", progress=lambda done, _: steps.append(done)
    )
    assert steps[0] == moment + 2 and steps[-1] == whole.steps
    assert again.backbone.sha256 == whole.backbone.sha256
    assert not (tmp_path / "s2").exists()


def test_every_stage_and_the_whole_come_near_the_teachers_features(tmp_path, fields, teacher):
    def miss(steps: int) -> tuple[float, ...]:
        config = TINY.model_copy(update={"stage_steps": steps, "steps": steps, "batch_size": 8, "save_every_s": 60.0})
        made = distil_backbone(fields, teacher, config, state=tmp_path / "s", into=tmp_path)
        return (*made.alone, made.unexplained)

    start, end = miss(1), miss(40)
    assert all(late < 0.8 * early for early, late in zip(start, end, strict=True)), (start, end)


def test_what_is_written_is_a_backbone_with_weights_of_its_own(tmp_path, fields, teacher):
    made = distil_backbone(fields, teacher, TINY, state=tmp_path / "s", into=tmp_path).backbone
    assert made.name == "test_efficientnet.tiny"
    assert json.loads((made.folder / "config.json").read_text())["pretrained_cfg"]["license"] == "Apache-2.0"
    learnt, given = build_backbone(made.folder).state_dict(), build_backbone(teacher).state_dict()
    kernels = [name for name, value in learnt.items() if value.numel() > 2000]
    assert kernels
    for name in kernels:
        angle = torch.nn.functional.cosine_similarity(learnt[name].flatten(), given[name].flatten(), dim=0)
        assert abs(float(angle)) < 0.9, name


@pytest.mark.parametrize(
    ("name", "args", "licence", "reason"),
    [
        ("test_resnet.tiny", {}, "Apache-2.0", "cannot be cut into stages"),
        ("test_efficientnet.wide", {"channel_multiplier": 2.0}, "Apache-2.0", "stages answer"),
        ("test_efficientnet.closed", {}, "cc-by-nc-4.0", "states the licence 'cc-by-nc-4.0'"),
    ],
)
def test_a_wrong_teacher_is_refused_with_the_reason(tmp_path, make_backbone, fields, name, args, licence, reason):
    folder = make_backbone(tmp_path, name, **args).folder
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["license"] = licence
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BackboneError, match=reason):
        distil_backbone(fields, folder, TINY, state=tmp_path / "s", into=tmp_path)


@pytest.mark.parametrize("name", [None, "test_resnet.tiny"])
def test_a_wrong_teacher_is_told_before_anything_is_rendered(tmp_path, make_backbone, monkeypatch, name):
    monkeypatch.setattr(regraft.tasks.steps.pretrain, "render_bank", lambda images: pytest.fail("rendered"))
    folder = make_backbone(tmp_path, name).folder if name else tmp_path / "nowhere"
    with pytest.raises(BackboneError, match="cannot be"):
        regraft.tasks.steps.pretrain.distil(tmp_path, folder, regraft.tasks.steps.pretrain.DistilConfig())


def test_fields_that_are_no_pictures_are_refused(tmp_path, teacher):
    with pytest.raises(ValueError, match="uint8"):
        distil_backbone(np.zeros((3, 8, 8)), teacher, TINY, state=tmp_path / "s", into=tmp_path)


def test_scenes_are_the_same_for_the_same_generator_coloured_and_never_blank(fields):
    batch = torch.from_numpy(fields)
    first, second = (make_scenes(batch, 32, SceneConfig(), torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second) and first.shape == (6, 3, 32, 32)
    assert first.min() >= -1 and first.max() <= 1
    assert (first.flatten(1).std(1) > 0.02).all()
    assert (first.std(1).amax((1, 2)) > 0.2).any()
    kept = render_scenes(fields, TINY, torch.device("cpu"))
    looks = [look_again(kept, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(looks[0], looks[1]) and not torch.equal(looks[0], looks[2])


def test_scales_make_every_stage_but_the_last_standard(teacher):
    stages = split_stages(build_backbone(teacher))
    picture = torch.randn(16, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    scales = measure_scales(stages, [picture[:8], picture[8:]])
    with torch.no_grad():
        answer = stages[0](picture)
        standard = scales[0].standardise(answer)
        assert torch.allclose(scales[0].restore(standard), answer, atol=1e-4)
        assert float(standard.mean().abs()) < 1e-3 and float(standard.std()) <= 1.01
        for stage in stages[1:]:
            answer = stage(answer)
    assert torch.equal(scales[-1].standardise(answer), answer)
