"""Kinds of work whose growth is measured, each at four sizes."""
