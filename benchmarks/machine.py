"""What the figures were measured on: processor, cores, versions."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

LIBRARIES = ("torch", "timm", "onnxruntime", "prefect", "dvc", "great-expectations", "bentoml", "scikit-learn", "numpy")


def describe_machine() -> list[str]:
    """Return lines of Markdown that name processor, cores, Python, libraries and commit."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    return [
        f"- machine: {name_processor()}, {os.cpu_count()} cores, {read_memory_gib():.0f} GiB, no GPU used",
        f"- Python {platform.python_version()}; {versions}",
        f"- commit {name_commit()}",
    ]


def name_processor() -> str:
    """Return the processor's name as Linux gives it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def read_memory_gib() -> float:
    """Return the memory of the machine in GiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def name_commit() -> str:
    """Return the commit that is measured, marked if the tree differs from it."""
    result = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"
