"""What a classifier is worth on the test part, once, and how that is said.

Scores and intervals themselves are in ``statistics``. Read first: ``evaluate.evaluate_predictions``.
"""
