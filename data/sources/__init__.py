"""Where images come from: the user's folders and tables, what their levels mean, and which files are listed.

No image is opened here; ``data/dataset`` does that. Read first: ``sources.scan_source``.
"""
