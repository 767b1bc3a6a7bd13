"""Batches to sparse autoencoders: many variants, one stream of activations."""
