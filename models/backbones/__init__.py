"""Pretrained networks by name: where they come from, the lock, the network itself and its inside.

How a licence is read is here; which one may be used, and which is, ``selection`` decides.
Read first: ``hub.retrieve_backbone``.
"""
