"""What clients may send and how slowly: ASGI layers before the endpoints, the refusals, the page for people.

What is answered is in ``serving/endpoint``. Read first: ``limits.BodyLimits``.
"""
