"""Let torchvision (and so timm) import beside a CPU build of torch.

There is no CPU build of torchvision: its compiled operators cannot load, and the import dies when their schemas are
registered. Declaring the two missing schemas first mends it; on a machine where the extension loads this does nothing.
"""

import importlib.util
from pathlib import Path

import torch


def declare_missing_operators() -> None:
    """Declare ``torchvision::nms`` and ``torchvision::qnms`` if torchvision's compiled extension cannot load."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    try:
        for extension in Path(spec.origin).parent.glob("_C*.so"):
            torch.ops.load_library(str(extension))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        # The definitions vanish with the object that holds them.
        declare_missing_operators.library = library  # type: ignore[attr-defined]


declare_missing_operators()
