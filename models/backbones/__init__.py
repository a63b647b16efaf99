"""Pretrained networks by name: where they come from, their licence, the lock, the network itself and its inside.

Which one to take is decided in ``selection``. Read first: ``hub.retrieve_backbone``.
"""
