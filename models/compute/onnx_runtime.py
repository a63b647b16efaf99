"""Networks as ONNX Runtime runs them on a CPU: a quiet session, and a graph taken for one pass and thrown away."""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

import regraft.models.compute.torchvision_gap
import regraft.serving.silence  # noqa: F401  before onnxruntime

PASS_OPSET = 18
"""Of graphs that live for one pass; what is served has an opset of its own."""


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep the exporter's progress, warnings and log records to itself; errors still rise."""
    chatter = [logging.getLogger(name) for name in ("torch", "torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [talker.level for talker in chatter]
    for talker in chatter:
        talker.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for talker, level in zip(chatter, levels, strict=True):
            talker.setLevel(level)


def start_session(model: bytes, threads: int | None = None) -> Any:
    """Return a quiet onnxruntime session on the CPU whose threads sleep when idle; default all cores, at most 4."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or min(4, os.cpu_count() or 1)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # decoders and torch use the same cores
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def take_graph(network: nn.Module, sample: torch.Tensor) -> bytes:
    """Return the ONNX graph of ``network`` as it stands, with the number of images open.

    The exporter that walks a trace is used, because it takes half a second where the other takes eight (decision 34);
    it is not the one that writes what is served.

    Args:
        network: In eval mode; from one tensor to one.
        sample: Two images at least.
    """
    buffer = io.BytesIO()
    wrapped = nn.Sequential(network)  # the exporter reads .graph of a traced module as if it were its own
    with quiet_exporter(), torch.no_grad():
        torch.onnx.export(
            wrapped.eval(),
            (sample,),
            buffer,
            dynamo=False,
            input_names=["images"],
            output_names=["values"],
            dynamic_axes={"images": {0: "batch"}, "values": {0: "batch"}},
            opset_version=PASS_OPSET,
        )
    return buffer.getvalue()
