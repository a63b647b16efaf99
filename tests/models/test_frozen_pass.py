"""The pass of a network that is not trained: the same row for an image wherever it stands and whoever computes it."""

import threading

import numpy as np
import pytest
import torch
from torch import nn

from regraft.models.backbones.network import Normalization, build_backbone
from regraft.models.compute.device import limit_threads
from regraft.models.features.extract import extract_features
from regraft.models.features.frozen_pass import PIECE, RUNTIME, TORCH, FrozenPass
from regraft.models.views.view import View

PLAIN = Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
CPU = torch.device("cpu")


class Unexportable(nn.Module):
    """Branches on what it sees, which a traced graph cannot repeat."""

    def forward(self, images):
        rows = images.mean(dim=(2, 3))
        return rows * (2 if float(rows[0, 0]) > -1 else 1)


@pytest.fixture
def network(make_backbone, tmp_path):
    return build_backbone(make_backbone(tmp_path).folder)


@pytest.fixture
def pixels(stripes):
    return stripes(2 * PIECE)[0]


def test_a_row_hangs_on_its_image_alone(network, pixels):
    frozen = FrozenPass(network, PLAIN, 32, CPU)
    assert frozen.engine == RUNTIME
    together = frozen.run(pixels)
    np.testing.assert_array_equal(together[PIECE + 3 :][:1], frozen.run(pixels[PIECE + 3 : PIECE + 4]))
    for threads in (1, 2, 3):
        with limit_threads(threads):
            np.testing.assert_array_equal(frozen.run(pixels), together)


def test_pieces_are_made_by_several_threads_and_come_in_order(network, pixels):
    makers, both = set(), threading.Barrier(2, timeout=30)

    def make(first, after):
        makers.add(threading.get_ident())
        if first < 2 * PIECE:
            both.wait()  # the first two pieces are in hand at once, or this breaks
        return pixels[first:after]

    with limit_threads(2):
        parts = list(FrozenPass(network, PLAIN, 32, CPU).run_pieces(len(pixels), make))
    assert [len(part) for part in parts] == [PIECE] * (len(pixels) // PIECE)
    np.testing.assert_array_equal(torch.cat(parts), FrozenPass(network, PLAIN, 32, CPU).run(pixels))
    assert len(makers) == 2 and threading.get_ident() not in makers


def test_an_error_on_the_way_is_the_callers_and_ends_the_work(network, pixels):
    made = []

    def make(first, after):
        made.append(first)
        raise OSError("planted")

    with pytest.raises(OSError, match="planted"), limit_threads(1):
        list(FrozenPass(network, PLAIN, 32, CPU).run_pieces(1000 * PIECE, make))
    assert len(made) < 1000


def test_a_graph_that_repeats_only_what_it_was_traced_on_is_not_taken(pixels):
    frozen = FrozenPass(Unexportable(), PLAIN, 32, CPU)
    assert frozen.engine == TORCH
    doubled = 2 * (pixels / 255 - 0.5) / 0.25
    np.testing.assert_allclose(frozen.run(pixels), doubled.mean(axis=(1, 2)), atol=1e-4)


def test_views_are_the_same_pixels_for_either_engine(network, pixels):
    view = View(1, strength=0.8, horizontal=0.5)
    taken = {}
    for engine, wanted in ((network, RUNTIME), (Unexportable(), TORCH)):
        frozen, seen = FrozenPass(engine, PLAIN, 32, CPU), {}
        assert frozen.engine == wanted
        change = view.open(len(pixels))

        def note(images, first, change=change, seen=seen):
            seen[first] = change(images, first)
            return seen[first]

        extract_features(frozen, pixels, PLAIN, change=note)
        taken[wanted] = np.concatenate([seen[first] for first in sorted(seen)])
    np.testing.assert_array_equal(taken[RUNTIME], taken[TORCH])
    assert not np.array_equal(taken[TORCH], pixels)
