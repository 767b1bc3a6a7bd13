"""Runs and their SAEs in a user's own code: figures, weights from a hub, interventions in a model."""
