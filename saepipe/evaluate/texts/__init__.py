"""Labelled text: its source, the rows drawn from it, and their pooled activations."""
