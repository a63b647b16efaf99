"""Torch side: backbones, features, selection, training, evaluation, export. Nothing heavy is imported here."""
