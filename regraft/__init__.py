"""regraft: from a raw folder of images to a served model that keeps itself right.

The floors are ``regraft.flows`` (start there), ``tasks``, ``models``, ``data`` and ``serving``.
"""
