"""Where everything of one learning problem lies: paths, DVC, locks, and the records kept from run to run.

Parameters are in ``tasks/settings``. Read first: ``workspace.open_workspace``.
"""
