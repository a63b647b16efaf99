"""Rendered images: the steel line of the demo, and formulas that the embedded backbone learnt from.

No real image is read here. Read first: ``steel.render_folder``.
"""
