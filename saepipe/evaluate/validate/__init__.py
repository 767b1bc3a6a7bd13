"""Tests whether a penalty does what it claims, on worlds with known features, at matched L0, against a placebo."""
