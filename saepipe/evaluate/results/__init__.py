"""Results on disk: one JSON file per metric, all results of a run, and the figures that tables show."""
