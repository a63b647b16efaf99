"""The servable folder: what it holds, how it is sealed, and a loaded model that has proven itself.

How a bundle is made is in ``models/export`` and ``tasks/stages/export.py``. Read first: ``format.open_bundle``.
"""
