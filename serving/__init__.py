"""The ground floor: bundle format, preprocessing, runtime, prediction log and the BentoML service."""

from regraft.serving import silence as silence
