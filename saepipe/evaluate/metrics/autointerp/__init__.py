"""Automated interpretability: a language model explains latents from examples, and is tested on other ones."""
