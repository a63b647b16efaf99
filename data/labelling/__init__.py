"""Which production images to ask labels for, and the labels that came back as a further source.

The log they come from is ``serving/log``. Read first: ``feedback.collect_feedback``.
"""
