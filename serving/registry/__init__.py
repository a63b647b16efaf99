"""Versions, the pointer that says which one answers, and the journal of who changed it.

Whether a version deserves the place is in ``models/promotion``. Read first: ``registry.Registry``.
"""
