import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from regraft.models.backbones.network import BackboneError, build_backbone, read_input


def test_weights_of_a_folder_are_the_ones_the_network_gets(make_backbone, tmp_path):
    folder = make_backbone(tmp_path).folder
    network = build_backbone(folder)
    stored = load_file(folder / "model.safetensors")
    assert any(value.dtype == torch.float16 for value in stored.values())
    for name, value in network.state_dict().items():
        assert value.dtype in (torch.float32, torch.int64)
        assert torch.equal(value.float(), stored[name].float()), name
    assert not network.training


def test_missing_tensors_are_named_and_never_random(make_backbone, tmp_path):
    folder = make_backbone(tmp_path).folder
    weights = load_file(folder / "model.safetensors")
    gone = sorted(name for name in weights if name.endswith("weight"))[0]
    del weights[gone]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(BackboneError, match=f"missing 1 tensors: {gone}"):
        build_backbone(folder)


def test_unknown_and_misshapen_tensors_are_all_named(make_backbone, tmp_path):
    folder = make_backbone(tmp_path).folder
    weights = load_file(folder / "model.safetensors")
    name = sorted(weights)[0]
    weights[name] = torch.zeros(7)
    weights["stranger"] = torch.zeros(1)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(BackboneError, match=r"1 unknown tensors: stranger; .*has shape \(7,\)"):
        build_backbone(folder)


def test_a_classifier_in_the_file_is_left_out(make_backbone, tmp_path):
    folder = make_backbone(tmp_path).folder
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"fc.weight": torch.zeros(10, 96), "fc.bias": torch.zeros(10)}, folder / "model.safetensors")
    assert build_backbone(folder)(torch.zeros(1, 3, 32, 32)).shape == (1, 96)


def test_input_comes_from_the_config(make_backbone, tmp_path):
    wanted = read_input(make_backbone(tmp_path, size_px=48).folder)
    assert (wanted.size_px, wanted.interpolation, wanted.crop_share) == (48, "bilinear", 0.9)
    assert wanted.normalization.std == (0.25, 0.25, 0.25)


@pytest.mark.parametrize("content", ["no json", "[]", '{"model_args": {}}'])
def test_a_broken_config_is_refused(content, make_backbone, tmp_path):
    folder = make_backbone(tmp_path).folder
    (folder / "config.json").write_text(content)
    with pytest.raises(BackboneError, match=r"config\.json"):
        read_input(folder)


def test_an_unknown_architecture_is_named(make_backbone, tmp_path):
    folder = make_backbone(tmp_path).folder
    config = json.loads((folder / "config.json").read_text()) | {"architecture": "resnot18"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BackboneError, match="resnot18"):
        build_backbone(folder)


def test_real_backbones_give_their_published_width(shared):
    network = build_backbone(shared / "backbones" / "vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    with torch.inference_mode():
        answer = network(torch.zeros(1, 3, 224, 224)).numpy()
    assert answer.shape == (1, 192)
    assert np.isfinite(answer).all()
