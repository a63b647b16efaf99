"""Scores and what is known of them: intervals, paired differences, groups, draws. Functions of arrays.

What is decided by them is in ``promotion``, ``certificate`` and ``selection``.
Read first: ``intervals.bootstrap_scores``.
"""
