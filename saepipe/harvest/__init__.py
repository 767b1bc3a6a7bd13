"""Text to tokens to activations to shards: one pass of the language model, kept for every later run."""
