"""A traced backbone cut in two: what crosses the cut can be kept, and the second half trained on it.

Training on kept activations of a frozen prefix needs no more than the chain rule.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from regraft.models.backbones.intermediate_features import StagedBackbone


@dataclass(frozen=True)
class CutBackbone:
    """``suffix(prefix(images))`` is ``backbone(images)``; both halves share its parameters.

    The prefix answers one row of numbers for each image, everything that crosses the cut.

    Attributes:
        prefix: Images ``(B, 3, S, S)`` to ``(B, values)``.
        suffix: ``(B, values)`` to the embedding ``(B, D)``.
        frozen: Depth groups in the prefix; at most as many as asked for.
        values: Numbers that one image needs behind the cut.
    """

    prefix: nn.Module
    suffix: nn.Module
    frozen: int
    values: int


def cut_backbone(backbone: nn.Module, frozen: int, size_px: int) -> CutBackbone | None:
    """Return the staged backbone cut behind at most ``frozen`` depth groups; None where it cannot be cut."""
    depths = [depth for depth in getattr(backbone, "cuts", {}) if 0 < depth <= frozen]
    if not depths:
        return None
    before, after = _split(backbone, max(depths))
    with torch.inference_mode():
        crossing = before(torch.zeros(1, 3, size_px, size_px, device=next(backbone.parameters()).device))
    shapes = [tuple(_pack(value).shape[1:]) for value in crossing]
    return CutBackbone(_Prefix(before), _Suffix(after, shapes), max(depths), sum(math.prod(shape) for shape in shapes))


class _Prefix(nn.Module):
    """The first half; what crosses the cut becomes one row of numbers an image."""

    def __init__(self, chain: nn.Module) -> None:
        super().__init__()
        self.chain = chain

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([_pack(value).flatten(1) for value in self.chain(images)], dim=1)


class _Suffix(nn.Module):
    """The second half, from such rows."""

    def __init__(self, chain: nn.Module, shapes: list[tuple[int, ...]]) -> None:
        super().__init__()
        self.chain = chain
        self.shapes = shapes

    def forward(self, rows: Tensor) -> Tensor:
        pieces = rows.split([math.prod(shape) for shape in self.shapes], dim=1)
        values = [piece.reshape(len(rows), *shape) for piece, shape in zip(pieces, self.shapes, strict=True)]
        return self.chain(*(value.permute(0, 3, 1, 2) if value.ndim == 4 else value for value in values))


def _pack(value: Tensor) -> Tensor:
    """Return maps with their channels last, as they lie in memory when convolutions are fast; all else as it is."""
    return value.permute(0, 2, 3, 1) if value.ndim == 4 else value


def _split(staged: StagedBackbone, depth: int) -> tuple[nn.Module, nn.Module]:
    """Return both halves of the chain: images to the values that cross the cut, and those to the embedding."""
    nodes = list(staged.graph.nodes)
    cut = next(place for place, node in enumerate(nodes) if node.name == staged.cuts[depth])
    while nodes[cut + 1].op == "call_module" and nodes[cut + 1].target.startswith("tap"):
        cut += 1  # the statistics of the cut's own map belong to the prefix
    early = [node for node in nodes[: cut + 1] if node.op != "get_attr"]
    crossing = [node for node in early if any(user not in early for user in node.users)]
    before, after = fx.Graph(), fx.Graph()
    known: dict[fx.Node, fx.Node] = {}
    for node in nodes[: cut + 1]:
        known[node] = before.node_copy(node, known.__getitem__)
    before.output(tuple(known[node] for node in crossing))
    known = {node: after.placeholder(node.name) for node in crossing}
    for node in nodes:
        if node.op == "get_attr" or (node not in early and node.op != "output"):
            known[node] = after.node_copy(node, known.__getitem__)
    after.output(known[nodes[-1].args[0]])
    return _compile(staged, before), _compile(staged, after)


def _compile(root: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """Return the module of ``graph`` without what nothing uses; it shares the submodules of ``root``."""
    module = fx.GraphModule(root, graph)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return module
