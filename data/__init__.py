"""Images and tables: ingest, manifest, shards, expectations, splits, loading, drift, feedback."""
