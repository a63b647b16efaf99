"""What was answered, which labels came back and why they were asked for, and the images behind them.

What follows from it is in ``data/drift`` and ``data/labelling``. Read first: ``writer.PredictionLog``.
"""
