"""Geometry: directions and joint activity of an SAE's latents, and how both differ from a baseline."""
