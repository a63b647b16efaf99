"""What the preprocessing of a model says; ``serving/decoding/preprocess.py`` does it."""

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, model_serializer

from regraft.serving.decoding.value_range import ValueRange

WHITE = (255, 255, 255)


class PreprocessSpec(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How decoded pixels become the model's square input; part of the bundle."""

    version: Literal[1] = 1
    """Version of this definition; a change of behaviour needs a new one."""
    size_px: int = Field(ge=1, le=4096)
    """Side of the square the model sees."""
    fit: Literal["squash", "crop", "letterbox"]
    """squash ignores the aspect ratio, crop cuts the centre, letterbox pads."""
    crop_share: float = Field(1.0, gt=0, le=1)
    """crop only: the shorter side becomes round(size_px / crop_share) before the centre is cut."""
    interpolation: Literal["bilinear", "bicubic", "lanczos"]
    """Pillow's resampling filter, with its antialiasing."""
    background: tuple[int, int, int] = WHITE
    """Colour under transparency and around a letterboxed image."""
    value_range: ValueRange | None = None
    """Which value is white in files deeper than 8 bits; None, where training saw none of them, takes all 16 bits."""

    @model_serializer(mode="wrap")
    def _leave_out_unset(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Say nothing of a range that is not set: what was hashed before there were ranges keeps its hash."""
        content: dict[str, Any] = serialize(self)
        return content if self.value_range is not None else {k: v for k, v in content.items() if k != "value_range"}

    @property
    def sha256(self) -> str:
        """Hash of the canonical JSON of this spec."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()
