"""Images as another lamp, another camera and another pose would have given them.

Read first: ``acquisition.take_again``; which views a head is fitted on is in ``view.py``, the shifts that a version is
judged under in ``shifts.py``.
"""
