"""How the embedded backbone was made: supervised, then distilled, on rendered images; resumable.

No stage of the graph comes here. Read first: ``distillation.distil_backbone``.
"""
