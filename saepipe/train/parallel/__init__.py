"""One run over several ranks: its latents, its batches, or both are split among them."""
