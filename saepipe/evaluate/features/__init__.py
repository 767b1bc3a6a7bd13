"""Feature store: the data that a feature browser shows of each latent of a run, gathered in one pass over the cache."""
