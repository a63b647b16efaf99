"""The gates: which candidates can be had, and which of them may compete."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.backbones import build_backbone, read_input
from models.candidates import explain_nobody, find_objection
from models.depth import count_work, group_by_depth
from models.hub import Backbone, retrieve_backbone
from models.latency import recall_latency
from models.plan import NOMINAL_SPEEDS
from models.selection import SelectConfig


@dataclass(frozen=True, slots=True)
class Entry:
    """A candidate that may compete: its weights and what one image costs."""

    backbone: Backbone
    gflops: float
    nominal_ms: float
    parameters: int
    latency_ms: float | None


def admit(
    names: Sequence[str], config: SelectConfig, store: Path, lock: Path, latencies: Path | None
) -> tuple[dict[str, Entry], dict[str, str]]:
    """Retrieve the candidates and pass them through the gates; return who may compete and why others may not."""
    entries, refused = {}, {}
    for name in names:
        backbone = retrieve_backbone(name, store=store, lock=lock, mirror=config.mirror)
        network, size_px = build_backbone(backbone.folder), read_input(backbone.folder).size_px
        work = count_work(network, group_by_depth(network), size_px)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        latency = None
        if config.max_latency_ms is not None:
            if latencies is None:
                raise ValueError("select.max_latency_ms needs a file that keeps what was measured on this machine.")
            latency = recall_latency(latencies, backbone.sha256, network, size_px, config.threads)
        objection = find_objection(
            backbone.licence,
            parameters,
            latency,
            forbidden=config.forbidden_licences,
            max_parameters=config.max_parameters,
            max_latency_ms=config.max_latency_ms,
        )
        if objection is not None:
            refused[name] = objection
            continue
        gflops, nominal = sum(group.gflops for group in work), 1000 * NOMINAL_SPEEDS["cpu"].forward_s(work)
        entries[name] = Entry(backbone, round(gflops, 4), round(nominal, 2), parameters, latency)
    if not entries:
        raise ValueError(explain_nobody(refused))
    return entries, refused
