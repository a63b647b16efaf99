import csv
import re

import pytest

from regraft.models.prior.imagenet_accuracy import TABLE, read_table, static_prior


def test_every_row_is_whole():
    with TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [row["name"] for row in rows]
    assert names == sorted(set(names))
    assert len(rows) == len(read_table()) >= 60
    for row in rows:
        assert re.fullmatch(r"[a-z0-9_]+\.[a-z0-9_]+", row["name"])
        assert 0.3 < float(row["accuracy"]) < 0.9
        assert 96 <= int(row["size_px"]) <= 384
        assert re.fullmatch(r"https://github\.com/huggingface/\S+/blob/[0-9a-f]{40}/\S+", row["source"])
        assert re.fullmatch(r"20\d\d-\d\d", row["date"])


@pytest.mark.parametrize(
    ("name", "accuracy"),
    [
        ("mobilenetv2_100.ra_in1k", 0.72936),
        ("tf_mobilenetv3_large_minimal_100.in1k", 0.7227),
        ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", 0.75452),
        ("resnet18.a1_in1k", 0.71488),
        ("resnet50.a1_in1k", 0.80382),
        ("efficientnet_b0.ra_in1k", 0.77696),
        ("convnext_atto.d2_in1k", 0.75668),
    ],
)
def test_listed_weights_have_their_own_figure(name, accuracy):
    entry = static_prior(name)
    assert entry.accuracy == accuracy
    assert entry.is_exact


def test_other_imagenet_weights_take_their_architectures_mean():
    entry = static_prior("convnextv2_atto.other_in22k_ft_in1k")
    assert entry.basis == ("convnextv2_atto.fcmae_ft_in1k",)
    assert not entry.is_exact
    pair = [static_prior(f"mobilenetv4_conv_small.{tag}_r224_in1k").accuracy for tag in ("e1200", "e2400")]
    assert static_prior("mobilenetv4_conv_small.e500_in21k").accuracy == pytest.approx(sum(pair) / 2)


@pytest.mark.parametrize(
    "name",
    [
        "mobilenetv2_100.inat2017_bird",  # listed architecture, other images
        "resnet18.dino",
        "resnet18.min1k",  # no ImageNet tag, only its letters
        "resnet18",
        "resnet10t.formula_v1",
        "unheard_of.in1k",
        "",
    ],
)
def test_what_is_not_known_is_not_guessed(name):
    assert static_prior(name) is None
