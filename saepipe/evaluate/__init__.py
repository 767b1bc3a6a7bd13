"""Checkpoints to metrics: what an SAE does to the model and to its activations."""
