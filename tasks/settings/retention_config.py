"""How long a workspace keeps what it could do without; ``tasks/retention/retention.py`` goes by it."""

from pydantic import BaseModel, Field


class RetentionConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What ``regraft clean`` leaves; nothing is ever removed by itself."""

    versions: int = Field(10, ge=0)
    """Registered versions, newest first, that stay beside champion, challenger and previous."""
    cache_days: float = Field(30.0, ge=0)
    """Days that kept features, decoded images, activations and logs stay after they were last written."""
    predictions_days: float = Field(365.0, ge=0)
    """Days that answers stay in the prediction log; those with a label that no version learned from stay for ever."""
