"""Comparison of runs: one table, the differences from a baseline, and a verdict on each variant."""
