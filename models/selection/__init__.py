"""Which backbone: eligibility, prior, scores on kept features, successive halving, the verdict.

Retrieval is in ``backbones``, training in ``training``. Read first: ``select.select_backbone``.
"""
