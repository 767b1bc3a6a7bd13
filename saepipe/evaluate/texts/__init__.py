"""Labelled text: its sources, the texts sampled from it, and their pooled activations."""
