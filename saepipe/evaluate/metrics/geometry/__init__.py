"""Geometry: directions of an SAE's latents, how they fire together, and how both differ from a baseline."""
