"""``params.yaml``: read, checked, changed, and in force only for the run that uses it.

What a parameter means stands beside the function it configures. Read first: ``params.load_params``.
"""
