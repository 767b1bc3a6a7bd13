"""What rests on disk: configs, artifacts, shards, and the batches read back from them."""
