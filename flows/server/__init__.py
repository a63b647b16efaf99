"""The local stack and what is said on a Prefect server: start, names, states, and following a run to its end.

What a run does is in ``flows/train.py``, ``retrain.py`` and ``watch.py``. Read first: ``stack.running_stack``.
"""
