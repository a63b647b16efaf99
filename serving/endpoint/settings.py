"""What the person who starts the service may set, read from ``REGRAFT_*`` environment variables."""

from pathlib import Path

from pydantic import BaseModel, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from regraft.serving.decoding.preprocess import MAX_PIXELS, MOST_PIXELS

PREFIX = "REGRAFT_"


class ServeConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Limits of the endpoint."""

    max_body_bytes: int = Field(8 * 1024 * 1024, ge=1024)
    """Largest request body; more is answered 413."""
    image_quota_bytes: int = Field(2 * 1024**3, ge=0)
    """Space for kept images, oldest out first; 0 keeps none, and then feedback cannot be trained on."""
    max_in_flight: int = Field(64, ge=1)
    """Requests with a body that are worked on at once, on each path; more are answered 503 with Retry-After."""
    body_timeout_s: float = Field(15.0, gt=0)
    """A body must have arrived by then, and headers at the latest after 10 seconds; otherwise 408."""
    threads: int | None = Field(None, ge=1)
    """Threads of one inference; default all cores, at most 4."""
    decoders: int = Field(2, ge=1)
    """Images decoded at once."""

    def to_environment(self) -> dict[str, str]:
        """Return the variables that carry these values to the service's process; what is None is left out."""
        values = self.model_dump()
        return {PREFIX + name.upper(): str(value) for name, value in values.items() if value is not None}


class ServiceSettings(ServeConfig, BaseSettings, frozen=True, use_attribute_docstrings=True):
    """What is not given is read from the environment: a field ``name`` from the variable ``REGRAFT_NAME``.

    Raises:
        pydantic.ValidationError: Naming every value that does not fit.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True)

    max_pixels: int = Field(MAX_PIXELS, ge=1, le=MOST_PIXELS)
    """Largest image, in pixels; more is answered 413 before it is decoded. It is ``ingest.max_pixels`` of the
    workspace: what may be learned from may be asked about."""
    workspace: Path = Path()
    """The workspace whose registry is followed and whose log is written."""

    @property
    def runtime_folder(self) -> Path:
        """Where the service keeps its own state; never versioned."""
        return self.workspace / ".regraft"

    @property
    def log_path(self) -> Path:
        """The prediction log."""
        return self.runtime_folder / "predictions.db"

    @property
    def image_folder(self) -> Path:
        """The kept images."""
        return self.runtime_folder / "images"

    @property
    def models_store(self) -> Path:
        """The registry."""
        return self.workspace / "models" / "store"
