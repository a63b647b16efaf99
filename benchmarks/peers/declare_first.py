"""Declares torchvision's missing operators just before the first ``import torchvision`` of the peers' interpreter.

Copied into the peers' environment and loaded by a ``.pth`` file at every start, so it may cost nothing until then.
"""

import sys
from typing import Any


class DeclareFirst:
    """A finder that finds nothing; being asked for torchvision makes it declare the operators and leave."""

    @classmethod
    def find_spec(cls, name: str, *_: Any) -> None:
        """Let the other finders answer."""
        if name == "torchvision":
            sys.meta_path.remove(cls)
            import torchvision_gap  # noqa: F401  (models/compute/torchvision_gap.py, copied beside this file)


sys.meta_path.insert(0, DeclareFirst)
