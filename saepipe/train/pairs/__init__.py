"""Pairs of latents at scale: searches, statistics and a repelling term, none with an array of d_sae x d_sae."""
