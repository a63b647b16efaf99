"""The trained network as one module from pixels to probabilities, its folder on disk, its answers.

How it is trained is in ``training``. Read first: ``checkpoint.Classifier``.
"""
