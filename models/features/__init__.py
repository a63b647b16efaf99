"""What a frozen backbone says of images: embeddings, AdaBN, the cache of both, the linear probe on them.

Nothing of the backbone is trained here. Read first: ``cache.FrozenBackbone``.
"""
