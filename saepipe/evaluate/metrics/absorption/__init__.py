"""First-letter absorption: does a latent for a letter stay silent where a more specific latent fires?"""
