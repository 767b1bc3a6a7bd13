"""Penalties: one file each."""
