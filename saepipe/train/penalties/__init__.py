"""Penalties, one file each."""
