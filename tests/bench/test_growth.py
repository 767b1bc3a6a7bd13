"""bench/growth.py: exponents, and that each kind of work exists."""

from __future__ import annotations

import ast
import sys

import pytest

from helpers.repository import BENCH

sys.path.append(str(BENCH))

from growth import exponent, line
from growth_parts.work import WORKS, Work

pytestmark = pytest.mark.quick


def test_the_slope_is_that_of_the_largest_sizes() -> None:
    assert exponent((1, 2, 4, 8), [7.0, 4.0, 16.0, 64.0]) == {"slope": 2.0, "steps": [2.0, 2.0]}
    assert exponent((1, 2, 4, 8), [1.0, 1.0, 1.0, 4.0]) == {"slope": 1.0, "steps": [0.0, 2.0]}
    assert exponent((10, 40, 160), [3.0, 6.0, 12.0])["slope"] == 0.5


def test_a_row_of_the_table() -> None:
    points = [{"size": 1250, "cpu_s": 0.5, "rise_mb": 1.0}, {"size": 2_500_000, "cpu_s": 12.0, "rise_mb": 2.0}]
    fitted = {"slope": 1.004, "steps": [0.9, 1.1]}
    row = {"points": points, "time_exponent": fitted, "memory_exponent": None}
    work = Work("open", "shards", (1250, 2_500_000), "caches.opened")
    assert line(work, row) == "| open | 1,250 to 2.5M shards | 12 s | 1.00 (0.90 to 1.10) | 2 MB | - |  |"


def test_every_kind_of_work_is_defined() -> None:
    defined = {
        f"{path.stem}.{node.name}"
        for path in (BENCH / "growth_parts").glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    assert {name for work in WORKS.values() for name in (work.begin, work.prepare) if name} <= defined
    assert all(len(work.sizes) == 4 for work in WORKS.values())
