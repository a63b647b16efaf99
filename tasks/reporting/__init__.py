"""What the report shows, gathered from what the stages left.

The page itself is ``models/report``. Read first: ``content.gather_content``.
"""
