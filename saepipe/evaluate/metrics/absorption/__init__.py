"""First-letter absorption: does a letter's latent stay inactive where a more specific latent is active?"""
