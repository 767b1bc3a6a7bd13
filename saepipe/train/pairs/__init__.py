"""Pairs of latents at scale: found, counted and pushed apart without an array of d_sae x d_sae."""
