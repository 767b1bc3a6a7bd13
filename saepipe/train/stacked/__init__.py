"""Small runs of one structure, trained as one: every tensor has a leading axis of runs."""
