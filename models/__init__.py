"""Torch side: backbones, features, selection, training, evaluation, export. Nothing heavy is imported here."""

import os

# Threads that wait by spinning steal the core from the thread that works: beside one busy process torch was measured
# four to five times slower on two cores. The runtime reads this once, when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
