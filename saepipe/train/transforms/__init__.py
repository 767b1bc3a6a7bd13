"""Transforms of the activations, one file each."""
