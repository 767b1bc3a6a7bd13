"""One SAE applied to tokens: its reconstructions, and which latents are active."""
