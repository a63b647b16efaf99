"""What a data set must fulfil before anything is learnt from it: Great Expectations, classes that are gone.

Nothing is repaired or left out here. Read first: ``expectations.validate_dataset``.
"""
