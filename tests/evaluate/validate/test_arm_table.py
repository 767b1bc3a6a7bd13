"""The table of a validation in a terminal: nothing is cut at 80 or 120 columns."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console, RenderableType

from saepipe.evaluate.stats.intervals import Estimate
from saepipe.evaluate.validate.arm_table import KEYS, Row, Table, render

pytestmark = pytest.mark.quick

LONGEST = "topk_orthogonality/coactivation"


def make_table() -> Table:
    """Returns two arms on one world, with the longest name and numbers of every length."""
    means, change = dict.fromkeys(KEYS, Estimate(0.02, 0.01, 0.03)), Estimate(-0.369, -0.401, -0.337)
    base = dict.fromkeys(KEYS, Estimate(0.32, 0.3, 0.34))
    common = ("relu", "overlapping", 2.2, 4.0, 5, 0.0123, 80.0, False)
    rows = [
        Row(LONGEST, True, *common, None, None, means, base, dict.fromkeys(KEYS, change), {"absorbed": change}),
        Row("c2r", False, *common, "the L0 of 2 seeds stays above 4", None, {}, {}, {}, {}),
    ]
    return Table(tuple(rows), {}, ("intervals are 95 %",))


def shown(width: int) -> str:
    console = Console(width=width, file=StringIO(), record=True)

    def fits(part: RenderableType) -> bool:
        return console.measure(part, options=console.options.update(width=10_000)).maximum <= width

    for part in render(make_table(), fits):
        console.print(part)
    return console.export_text()


@pytest.mark.parametrize("width", [80, 120, 200])
def test_no_cell_is_cut_and_no_interval_lost(width: int) -> None:
    text = shown(width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert text.count("[-0.401, -0.337]") == 2
    assert text.count("(-0.369)") == 3 + 2  # FVU, MCC and F1; in the verdict, FVU and MCC
    words = " ".join(text.split())
    assert LONGEST in text
    for part in ("absorbs less (0.320 -> 0.020)", "0.012", "the L0 of 2 seeds stays above 4"):
        assert all(word in words for word in part.split())


def test_the_verdict_is_wide_and_first() -> None:
    lines = shown(80).splitlines()
    (start,) = [number for number, line in enumerate(lines) if "absorbs less" in line]
    assert start < 6
    verdict = lines[start : start + 4]
    assert max(len(line.rstrip()) for line in verdict) > 60
    assert len([line for line in verdict if line.strip()]) <= 4


def test_a_wide_terminal_shows_all_figures_in_one_table() -> None:
    assert [shown(width).count("from the baseline") for width in (80, 200)] == [1, 1]
    assert ("FVU" in next(line for line in shown(200).splitlines() if "from the baseline" in line)) is True
    assert ("FVU" in next(line for line in shown(80).splitlines() if "from the baseline" in line)) is False
