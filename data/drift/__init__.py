"""Has production left what the champion was accepted on: reference, tests, verdict, alarm.

What is done about it is in ``tasks/steps/watch.py``. Read first: ``verdict.judge_window``.
"""
