"""Sparse probing: how well a few latents, or all of them, tell classes of text apart."""
