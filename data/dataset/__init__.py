"""The ingested images: every file opened once, measured, hashed and kept in shards with a manifest.

Which files are listed is in ``data/sources``; whether they are good enough in ``data/validation``.
Read first: ``ingest.ingest_sources``.
"""
