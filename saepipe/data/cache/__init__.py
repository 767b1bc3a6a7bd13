"""What rests on disk: the shards of a cache, how rows are encoded, and how they are written, read and repaired."""
