"""The whole loop on a rendered production line, with real servers.

Nothing of it is used by other flows. Read first: ``demo.run_demo``.
"""
