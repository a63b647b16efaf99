"""From the bytes of an image file to the array a model sees: cost before decoding, value range, resize, quality.

Nothing here knows of models or requests. Read first: ``preprocess.load_input``.
"""
