"""Before a run: what enters it, what is on offer, what would stop it, and how long it will take.

Nothing is trained here. Read first: ``preflight.preflight``.
"""
