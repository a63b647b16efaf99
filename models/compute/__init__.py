"""The machine: device and threads, the cost of a network, time budgets, forecasts, snapshots of unfinished work.

What is computed is in ``features`` and ``training``. Read first: ``budget.plan_training``.
"""
