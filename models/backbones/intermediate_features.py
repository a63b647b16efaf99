"""A backbone as a chain of blocks: what earlier stages say beside the last one, and where the chain can be cut in two.

The chain is the traced graph of the network between its blocks, so that one piece of code serves every architecture
whose blocks follow each other. Sources: features of several stages for a linear head, Evci et al. 2022 (Head2Toe, arXiv
2201.03529).
"""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from regraft.models.compute.cost import group_by_depth, group_modules

logger = logging.getLogger(__name__)

DEPTH_SHARES = (0.5, 0.75, 1.0)
"""Depths whose maps add their statistics, as shares of all; the last is the map that the embedding is pooled from."""
SMALLEST_VARIANCE = 1e-6


class StageStatistics(nn.Module):
    """Mean and standard deviation of every channel over the places of a map; tokens count as places."""

    def __init__(self, channels_first: bool) -> None:
        super().__init__()
        self.channels_first = channels_first

    def forward(self, stage: Tensor) -> Tensor:
        """Return ``(B, 2 C)`` of ``(B, C, H, W)``, ``(B, H, W, C)`` or tokens ``(B, T, C)``."""
        places = stage.flatten(2) if self.channels_first else stage.flatten(1, -2).transpose(1, 2)  # (B, C, places)
        mean = places.mean(dim=2, keepdim=True)
        variance = (places - mean).square().mean(dim=2)
        # A dead channel has no slope at zero deviation: the floor keeps its gradient finite.
        return torch.cat([mean.squeeze(2), (variance + SMALLEST_VARIANCE).sqrt()], dim=1)


class StagedBackbone(fx.GraphModule):
    """A traced backbone under its own parameter names, answering embedding and intermediate statistics.

    Attributes:
        cuts: For each depth at which the chain can be cut, the name of the node after which it is.
        widths: Numbers in the embedding, block by block: the last stage's, then mean and deviation of
            each intermediate feature.
        group_matcher: timm's grouping of the parameters, if the architecture has one.
    """

    cuts: dict[int, str]
    widths: tuple[int, ...]


class _BlockTracer(fx.Tracer):
    """Traces the path between blocks, never inside one: what depends on the mode or on a shape stays as written."""

    def __init__(self, groups: dict[str, int]) -> None:
        super().__init__()
        self._groups = groups

    def is_leaf_module(self, module: nn.Module, module_qualified_name: str) -> bool:
        inside = module_qualified_name.removeprefix("body").removeprefix(".")
        return inside != "" and len({g for name, g in self._groups.items() if name.startswith(f"{inside}.")}) <= 1


class _Body(nn.Module):
    """The backbone called with images alone: its other arguments keep their defaults while tracing."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)


def stage_backbone(backbone: nn.Module, size_px: int, shares: Sequence[float] = DEPTH_SHARES) -> nn.Module:
    """Return the same network answering embedding and intermediate statistics, ``(B, D)``; parameters are shared.

    A network that cannot be traced, or does not answer alike afterwards, is returned as it is: it then speaks with its
    last stage alone and is trained without kept activations. ``list_widths`` says which it was.

    Args:
        backbone: From images ``(B, 3, S, S)`` to embeddings; eval mode.
        size_px: Side of the images.
        shares: Depths whose statistics join the embedding, as shares of all depth groups.
    """
    groups = group_by_depth(backbone)
    graph = _trace(backbone, groups)
    if graph is None:
        return backbone
    cuts = _list_cuts(graph, group_modules(backbone, groups), groups)
    probe = torch.zeros(1, 3, size_px, size_px, device=next(backbone.parameters()).device)
    with torch.inference_mode():
        expected = backbone(probe)
    staged = _build(backbone, graph, cuts, expected.shape[1])
    depths = _choose_depths(cuts, max(groups.values(), default=0), shares)
    _add_statistics(staged, [cuts[depth] for depth in depths], probe)
    with torch.inference_mode():
        found = staged(probe)
    if not torch.equal(found[:, : expected.shape[1]], expected):
        logger.info("backbone not staged architecture=%s reason=answers differ", type(backbone).__name__)
        return backbone
    return staged.train(backbone.training)


def list_widths(backbone: nn.Module, size_px: int) -> tuple[int, ...]:
    """Return the numbers of each block of the embedding; one block where the network is not staged."""
    if isinstance(backbone, StagedBackbone):
        return backbone.widths
    with torch.inference_mode():
        probe = torch.zeros(1, 3, size_px, size_px, device=next(backbone.parameters()).device)
        return (backbone(probe).shape[1],)


def _trace(backbone: nn.Module, groups: dict[str, int]) -> fx.Graph | None:
    """Return the graph between the blocks with targets as the backbone names them, or None."""
    try:
        graph = _BlockTracer(groups).trace(_Body(backbone))
    except Exception as exc:
        logger.info("backbone not traced architecture=%s reason=%s", type(backbone).__name__, exc)
        return None
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = node.target.removeprefix("body.")
    return graph


def _list_cuts(graph: fx.Graph, owners: dict[str, int], groups: dict[str, int]) -> dict[int, str]:
    """Return by depth the last node whose value alone goes on to the deeper groups."""
    nodes = [node for node in graph.nodes if node.op not in ("placeholder", "output", "get_attr")]
    places = {node: place for place, node in enumerate(nodes)}
    used_until = [max((places.get(user, len(nodes)) for user in node.users), default=-1) for node in nodes]
    images = next(node for node in graph.nodes if node.op == "placeholder")
    open_until = max(places[user] for user in images.users)
    depths = _measure_depths(nodes, owners, groups)
    deeper = [min(depths[place:]) for place in range(len(nodes))]
    cuts = {}
    for place, node in enumerate(nodes[:-1]):
        if open_until <= place and max(depths[: place + 1]) < deeper[place + 1]:
            cuts[deeper[place + 1]] = node.name
        open_until = max(open_until, used_until[place])
    return cuts


def _measure_depths(nodes: list[fx.Node], owners: dict[str, int], groups: dict[str, int]) -> list[int]:
    """Return the depth group of each node; one without parameters belongs where the one before it does."""
    depths, current = [], 0
    for node in nodes:
        found = [groups[source.target] for source in node.all_input_nodes if source.target in groups]
        if node.op == "call_module":
            found += [d for name, d in owners.items() if name == node.target or name.startswith(f"{node.target}.")]
        current = max(found, default=current)
        depths.append(current)
    return depths


def _build(backbone: nn.Module, graph: fx.Graph, cuts: dict[int, str], width: int) -> StagedBackbone:
    """Return the traced network as a module of its own with the backbone's names and grouping."""
    staged = StagedBackbone(backbone, graph)
    staged.cuts, staged.widths = cuts, (width,)
    if hasattr(backbone, "group_matcher"):
        staged.group_matcher = backbone.group_matcher
    return staged


def _choose_depths(cuts: dict[int, str], deepest: int, shares: Sequence[float]) -> list[int]:
    """Return the depths: for each share the nearest cut, of equally near ones the deeper, none twice."""
    return sorted({min(cuts, key=lambda depth: (abs(depth - share * deepest), -depth)) for share in shares if cuts})


def _add_statistics(staged: StagedBackbone, names: list[str], probe: Tensor) -> None:
    """Append the statistics of the named nodes to the answer, in place."""
    graph = staged.graph
    output = next(node for node in graph.nodes if node.op == "output")
    parts, widths = [output.args[0]], list(staged.widths)
    for number, node in enumerate([node for node in graph.nodes if node.name in names]):
        with torch.inference_mode():
            stage = _Reader(staged, node).read(probe)
        statistics = StageStatistics(_has_channels_first(stage, staged))
        staged.add_submodule(f"tap{number}", statistics)
        with graph.inserting_after(node):
            parts.append(graph.call_module(f"tap{number}", (node,)))
        channels = statistics(stage).shape[1] // 2
        widths += [channels, channels]
    with graph.inserting_before(output):
        output.args = (graph.call_function(torch.cat, (tuple(parts), 1)),)
    staged.widths = tuple(widths)
    staged.recompile()


class _Reader(fx.Interpreter):
    """Runs a graph up to one node and returns that node's value."""

    def __init__(self, module: fx.GraphModule, wanted: fx.Node) -> None:
        super().__init__(module)
        self._wanted = wanted
        self._value: Tensor | None = None

    def run_node(self, node: fx.Node) -> object:
        value = super().run_node(node)
        if node is self._wanted:
            self._value = value
        return value

    def read(self, images: Tensor) -> Tensor:
        """Return the value of the wanted node for these images."""
        self.run(images)
        assert self._value is not None
        return self._value


def _has_channels_first(stage: Tensor, staged: nn.Module) -> bool:
    """Say whether a map is ``(B, C, H, W)``: its sides are equal, the channels seldom are."""
    if stage.ndim != 4:
        return False
    square_last, square_middle = stage.shape[2] == stage.shape[3], stage.shape[1] == stage.shape[2]
    return square_last if square_last != square_middle else any(isinstance(m, nn.Conv2d) for m in staged.modules())
