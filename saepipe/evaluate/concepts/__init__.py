"""Binary questions about texts, a linear probe for each, and what the probes say with an SAE's latents off."""
