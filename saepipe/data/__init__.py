"""Data on disk: configs, artifacts and shards, and the batches read back from them."""
