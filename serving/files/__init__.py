"""Files that survive kill -9: whole or not at all, lines that several writers append to, scratch folders.

What the files hold is not known here. Read first: ``durable.write_bytes``.
"""
