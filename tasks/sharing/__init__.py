"""How copies of one workspace share versions, pointer, journal and run history through the DVC remote.

DVC's own objects travel in ``tasks/steps/push.py``. Read first: ``sharing.share``.
"""
