"""Palette, axes and numbers of all charts."""

from __future__ import annotations

import math
import re
import sys
from importlib.resources import files
from typing import Any

import pytest

from saepipe.data.errors import MachineError
from saepipe.evaluate.report.charts.drawing import COLOURS, GREY, Series, altair, quantity, rounded, ticks


def test_names_beyond_the_palette_differ_in_dash_and_shape() -> None:
    names = tuple(f"v{index}" for index in range(20))
    series = Series("variant", names, ("theirs",))
    looks = [series.colour.to_dict()["scale"]["range"], series.dash.to_dict()["scale"]["range"]]
    assert len({(colour, tuple(dash)) for colour, dash in zip(*looks, strict=True)}) == 21
    assert looks[0][-1] == GREY
    assert set(looks[0][:-1]) == set(COLOURS)
    shapes = series.shape.to_dict()["scale"]
    assert shapes["domain"] == [*names, "theirs"]
    assert len({*zip(looks[0], shapes["range"], strict=True)}) == 21


def luminance(colour: str) -> float:
    levels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in levels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_every_colour_has_a_contrast_of_3_to_the_cards_of_both_themes() -> None:
    style = (files("saepipe.evaluate.report") / "page.css").read_text()
    cards = re.search(r"--card: light-dark\((#\w{6}), (#\w{6})\)", style)
    assert cards
    light, dark = map(luminance, cards.groups())
    for colour in (*COLOURS, GREY):
        assert (light + 0.05) / (luminance(colour) + 0.05) >= 3, colour
        assert (luminance(colour) + 0.05) / (dark + 0.05) >= 3, colour


def test_an_axis_is_logarithmic_if_its_values_span_a_decade() -> None:
    def scale(*numbers: float, zero: bool = False) -> dict[str, Any]:
        return quantity("X", "x", "x", numbers, zero=zero).to_dict()["scale"]

    assert scale(2.0, 21.0)["type"] == "log"
    assert scale(2.0, 19.0) == {"zero": False}
    assert scale(0.0, 19.0, 1.0) == {"zero": False}
    assert scale(2.0, 21.0, zero=True) == {"zero": True}
    assert scale(0.0, 0.0, zero=True) == {"domain": [0, 1]}


@pytest.mark.parametrize(("low", "high"), [(0.3, 40.0), (2.0, 21.0), (1e-7, 1.0), (1e-12, 1e9)])
def test_some_ticks_are_in_range(low: float, high: float) -> None:
    visible = [tick for tick in ticks(low, high) if low <= tick <= high]
    assert 2 <= len(visible) <= 12
    assert all(f"{tick:.0e}"[0] in "125" for tick in visible)


def test_numbers_have_five_digits() -> None:
    assert rounded(0.123456789) == 0.12346
    assert rounded(123456.789) == 123460.0
    assert rounded(math.nan) is None
    assert [rounded(value) for value in (7, "a", None)] == [7, "a", None]


def test_a_missing_library_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(MachineError, match="a report needs altair") as error:
        altair()
    assert error.value.hint == "pip install 'saepipe[report]'"
