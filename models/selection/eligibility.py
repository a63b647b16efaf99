"""The gates: which candidates can be had, and which of them may compete."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from regraft.models.backbones.hub import Backbone, LicenceRefused, MirrorError, list_mirror, retrieve_backbone
from regraft.models.backbones.licences import object_to_licence
from regraft.models.backbones.lock import PinError
from regraft.models.backbones.network import BackboneError, build_backbone, read_input
from regraft.models.compute.budget import NOMINAL_SPEEDS
from regraft.models.compute.cost import count_work, group_by_depth
from regraft.models.selection.candidates import SelectionError, explain_nobody, find_objection
from regraft.models.selection.latency import recall_latency
from regraft.models.selection.result import SelectConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EligibleBackbone:
    """A candidate that may compete: its weights and what one image costs."""

    backbone: Backbone
    gflops: float
    nominal_ms: float
    parameters: int
    latency_ms: float | None


def admit(
    names: Sequence[str], config: SelectConfig, store: Path, lock: Path, latencies: Path | None
) -> tuple[dict[str, EligibleBackbone], dict[str, str]]:
    """Retrieve the candidates and pass them through the gates; return who may compete and why others may not.

    Raises:
        BackboneError: If a candidate that was named cannot be had, the mirror gives no answer, other bytes come than
            those pinned, or nothing that the mirror offers can be used.
        SelectionError: If nobody may compete.
    """
    entries: dict[str, EligibleBackbone] = {}
    refused: dict[str, str] = {}
    unusable: dict[str, str] = {}
    for name in names:
        try:
            backbone = retrieve_backbone(
                name,
                store=store,
                lock=lock,
                mirror=config.mirror,
                object_to=lambda licence: object_to_licence(licence, config.forbidden_licences),
            )
            found = judge(backbone, config, latencies)
        except LicenceRefused as error:
            refused[name] = str(error)
            continue
        except (MirrorError, PinError):
            raise
        except BackboneError as error:
            if config.candidates != "auto":
                raise
            unusable[name] = " ".join(str(error).split())
            logger.warning("candidate left out name=%s reason=%s", name, unusable[name])
            continue
        if isinstance(found, EligibleBackbone):
            entries[name] = found
        else:
            refused[name] = found
    require_offered(config.mirror, unusable)
    refused |= unusable
    if not entries:
        raise SelectionError(explain_nobody(refused))
    return entries, refused


def judge(backbone: Backbone, config: SelectConfig, latencies: Path | None) -> EligibleBackbone | str:
    """Return the candidate as it may compete, or why it may not."""
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
        return objection
    gflops, nominal = sum(group.gflops for group in work), 1000 * NOMINAL_SPEEDS["cpu"].forward_s(work)
    return EligibleBackbone(backbone, round(gflops, 4), round(nominal, 2), parameters, latency)


def require_offered(mirror: str | None, unusable: dict[str, str]) -> None:
    """Raise if nothing of what the mirror offers can be used: what is left is not what was asked for.

    Raises:
        BackboneError: Naming each with its reason.
    """
    if mirror is None or not unusable:
        return
    offered = set(list_mirror(mirror))
    if offered <= set(unusable):
        reasons = "; ".join(f"{name}: {unusable[name]}" for name in sorted(offered))
        raise BackboneError(f"nothing that mirror {mirror} offers can be used. {reasons}")
