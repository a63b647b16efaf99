import numpy as np
import pytest
import torch

from regraft.models.backbones.network import Normalization, build_backbone
from regraft.models.compute.device import Compute, DeviceError, choose_device
from regraft.models.features import frozen_pass
from regraft.models.features.adabn import adapt_batchnorm, list_batchnorms
from regraft.models.features.extract import extract_features
from regraft.models.features.frozen_pass import normalise_pixels

PLAIN = Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
CPU = Compute(device="cpu")


def test_pixels_are_normalised_per_channel():
    pixels = torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8)
    mean, std = torch.tensor([0.0, 0.1, 0.5]).view(1, 3, 1, 1), torch.tensor([1.0, 0.1, 0.25]).view(1, 3, 1, 1)
    assert normalise_pixels(pixels, mean, std).flatten().tolist() == pytest.approx([0.0, 1.0, 2.0], abs=1e-6)


@pytest.mark.parametrize("name", ["test_resnet.tiny", "test_vit.tiny"])
def test_features_equal_the_network_called_by_hand_for_any_piece(name, make_backbone, stripes, tmp_path, monkeypatch):
    args = {"img_size": 32} if "vit" in name else {}
    network = build_backbone(make_backbone(tmp_path, name, **args).folder)
    pixels, _ = stripes(3)
    with torch.inference_mode():
        images = torch.from_numpy((pixels.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25).float()
        truth = network(images).numpy()
    for piece in (2, 32):
        monkeypatch.setattr(frozen_pass, "PIECE", piece)
        features = extract_features(network, pixels, PLAIN, device="cpu")
        np.testing.assert_allclose(features, truth, atol=2e-5)


def test_rows_pick_images_in_their_order(make_backbone, stripes, tmp_path):
    network = build_backbone(make_backbone(tmp_path).folder)
    pixels, _ = stripes(3)
    everything = extract_features(network, pixels, PLAIN, device="cpu")
    np.testing.assert_allclose(
        extract_features(network, pixels, PLAIN, rows=np.array([4, 0]), device="cpu"), everything[[4, 0]], atol=1e-5
    )


def test_progress_ends_at_the_number_of_images(make_backbone, stripes, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(frozen_pass, "PIECE", 4)
    network = build_backbone(make_backbone(tmp_path).folder)
    extract_features(
        network,
        stripes(2)[0],
        PLAIN,
        device="cpu",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(4, 6), (6, 6)]


def test_no_images_is_an_error(make_backbone, tmp_path):
    network = build_backbone(make_backbone(tmp_path).folder)
    with pytest.raises(ValueError, match="no images"):
        extract_features(network, np.zeros((0, 32, 32, 3), np.uint8), PLAIN)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_is_never_replaced_silently():
    assert choose_device("auto").type == "cpu"
    with pytest.raises(DeviceError, match="CUDA"):
        choose_device("cuda")


def test_adapted_statistics_are_those_of_the_images(make_backbone, stripes, tmp_path):
    network = build_backbone(make_backbone(tmp_path).folder)
    pixels, _ = stripes(4)
    before = {name: value.clone() for name, value in network.named_parameters()}
    seen = []
    first = list_batchnorms(network)[0]
    hook = first.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    assert adapt_batchnorm(network, pixels, PLAIN, batch_size=len(pixels), compute=CPU) == len(list_batchnorms(network))
    hook.remove()
    np.testing.assert_allclose(first.running_mean, seen[0].mean(dim=(0, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(first.running_var, seen[0].var(dim=(0, 2, 3)), rtol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in network.named_parameters())
    assert not any(module.training for module in network.modules())
    assert first.momentum == pytest.approx(0.1)


def test_adaptation_averages_over_batches(make_backbone, stripes, tmp_path):
    network = build_backbone(make_backbone(tmp_path).folder)
    pixels, _ = stripes(4)
    means = []
    first = list_batchnorms(network)[0]
    first.register_forward_pre_hook(lambda _module, inputs: means.append(inputs[0].mean(dim=(0, 2, 3))))
    adapt_batchnorm(network, pixels, PLAIN, batch_size=5, compute=CPU)  # 12 images: 5, 5 and a last of 2, left out
    assert len(means) == 2
    np.testing.assert_allclose(first.running_mean, torch.stack(means).mean(dim=0), atol=1e-5)


def test_a_network_without_batchnorm_is_left_alone(make_backbone, stripes, tmp_path):
    network = build_backbone(make_backbone(tmp_path, "test_vit.tiny", img_size=32).folder)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert adapt_batchnorm(network, stripes(2)[0], PLAIN, compute=CPU) == 0
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_adaptation_undoes_a_change_of_exposure(make_backbone, stripes, tmp_path):
    network = build_backbone(make_backbone(tmp_path).folder)
    pixels, _ = stripes(8, noise=5)
    dark = (pixels * 0.4).astype(np.uint8)
    source = extract_features(network, pixels, PLAIN, device="cpu")
    shifted = extract_features(network, dark, PLAIN, device="cpu")
    adapt_batchnorm(network, pixels, PLAIN, compute=CPU)
    source_adapted = extract_features(network, pixels, PLAIN, device="cpu")
    adapt_batchnorm(network, dark, PLAIN, compute=CPU)
    dark_adapted = extract_features(network, dark, PLAIN, device="cpu")
    spread = source.std(axis=0).mean(), source_adapted.std(axis=0).mean()
    before = np.abs(source - shifted).mean() / spread[0]
    after = np.abs(source_adapted - dark_adapted).mean() / spread[1]
    assert after < before / 3
