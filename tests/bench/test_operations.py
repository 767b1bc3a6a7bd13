"""bench/operations.py: the number of operations of a step does not grow."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from helpers.repository import BENCH

sys.path.append(str(BENCH))

from operations import Operations, counts

pytestmark = pytest.mark.quick


def test_views_are_not_counted() -> None:
    with Operations() as operations:
        x = torch.zeros(2, 3)
        (x.T[1:] + 1).sum()
    assert operations.counts == {"zeros": 1, "add": 1, "sum": 1}


def test_no_step_dispatches_more_operations_than_when_last_counted() -> None:
    result = json.loads((BENCH / "results" / "operations.json").read_text())
    if result["versions"]["torch"] != torch.__version__:
        pytest.skip(f"counted with torch {result['versions']['torch']}, not {torch.__version__}")
    now, before = counts(), result["operations"]
    assert now.keys() == before.keys(), "run bench/operations.py"
    grown = {name: (before[name], now[name]) for name in now if any(now[name][p] > before[name][p] for p in now[name])}
    assert not grown
