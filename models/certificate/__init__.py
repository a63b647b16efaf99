"""Did transfer help: pretrained weights against the same network without them and against none.

The intervals behind it are in ``statistics``. Read first: ``certify.certify``.
"""
