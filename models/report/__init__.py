"""The one self-contained page about a version: its figures drawn and written.

What the page shows is gathered in ``tasks/reporting``. Read first: ``report.render_report``.
"""
