"""Typed, frozen configs read from YAML, and the component families that they name."""
