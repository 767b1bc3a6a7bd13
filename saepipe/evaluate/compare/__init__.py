"""Comparison of runs: one table, differences from a baseline, and a verdict on each variant."""
