"""Resources of the machine: device and threads, the cost of a network, time budgets, forecasts, snapshots.

What is computed is in ``features`` and ``training``. Read first: ``budget.plan_training``.
"""
