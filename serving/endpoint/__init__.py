"""The BentoML service: from an upload to its logged answer, the models it holds, its settings and counters.

Bytes of requests are in ``serving/http``, pixels in ``serving/decoding``. Read first: ``engine.Engine``.
"""
