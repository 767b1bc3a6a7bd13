"""Confidence intervals, comparisons over seeds, curves over L0, and linear probes."""
