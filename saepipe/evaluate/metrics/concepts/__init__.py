"""SCR and TPP: accuracy that probes of a concept lose when an SAE's latents of a concept are ablated."""
