"""One SAE on tokens: what it reconstructs, and when its latents fire."""
