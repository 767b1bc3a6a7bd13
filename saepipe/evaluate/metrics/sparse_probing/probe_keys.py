"""Names of the probes, and SAEBench's keys for their accuracies."""

from __future__ import annotations

FULL = "full"
"""Name of the probe on all columns; the others are named by their number of columns."""

KS = (1, 2, 5, 10, 20, 50, 100)
"""Numbers of columns that SAEBench has keys for."""

PROBES = (FULL, *map(str, KS))


def result_key(side: str, probe: str) -> str:
    """Returns SAEBench's key of an accuracy."""
    return f"{side}_test_accuracy" if probe == FULL else f"{side}_top_{probe}_test_accuracy"
