"""The ground floor: bundle format, preprocessing, runtime, prediction log and the BentoML service."""

from serving import silence as silence
