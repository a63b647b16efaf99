"""What is known of a backbone before the images at hand are seen: public accuracies, and what earlier runs found.

What the images themselves say is in ``selection``. Read first: ``run_history.rate_by_record``.
"""
