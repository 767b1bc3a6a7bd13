"""Where the weights of an SAE's latents point, which of them fire together, and how both differ from a baseline's."""
