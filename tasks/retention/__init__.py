"""What a workspace may forget: told first, removed only when asked to.

The prediction log is pruned in ``serving/log``, a version is removed by ``serving/registry``.
Read first: ``retention.plan_cleaning``.
"""
