"""Spec of the forest plot: aligned zeros, better on the right, shaded effects, grey for what cannot be compared."""

from __future__ import annotations

from typing import Any

import pytest

from saepipe.evaluate.report.charts.drawing import GREY
from saepipe.evaluate.report.charts.forest import forest
from saepipe.evaluate.report.story import Story


@pytest.fixture(scope="module")
def spec(judged: Story) -> Any:
    chart = forest(judged)
    assert chart is not None
    return chart.spec


@pytest.fixture(scope="module")
def entries(spec: Any) -> dict[tuple[str, str], dict[str, Any]]:
    (records,) = (table for table in spec["datasets"].values() if table and "variant" in table[0])
    return {(record["variant"], record["figure"]): record for record in records}


def layers(spec: Any, kind: str) -> list[Any]:
    return [layer for layer in spec["layer"] if layer["mark"]["type"] == kind]


def records(spec: Any, layer: Any) -> list[dict[str, Any]]:
    return spec["datasets"][layer["data"]["name"]]


def test_better_is_on_the_right_also_if_lower_is_better(entries: dict[tuple[str, str], dict[str, Any]]) -> None:
    for figure, text in (("explained variance", "+0.03"), ("delta CE (nats)", "\N{MINUS SIGN}0.1")):
        entry = entries["ortsae", figure]
        assert 0 < entry["low"] < entry["high"] or 0 < entry["high"] < entry["low"]
        assert entry["x"] > 0
        assert entry["text"].startswith(text)
        assert entry["text"].endswith(" better")
    assert entries["ortsae", "alive"]["x"] < 0
    assert entries["ortsae", "alive"]["verdict"] == "worse"


def test_ticks_have_the_signs_of_the_differences(spec: Any) -> None:
    words = next(records(spec, layer) for layer in layers(spec, "text"))
    places = {word["text"]: word["x"] for word in words}
    assert places["+0.02"] > 0 > places["\N{MINUS SIGN}0.02"]  # explained variance: higher is better
    assert places["\N{MINUS SIGN}0.05"] > 0 > places["+0.05"]  # delta CE: lower is better
    assert (places["l1"], places["better \N{RIGHTWARDS ARROW}"] > 0) == (0.0, True)


def test_effects_of_interest_are_shaded_on_the_scale_of_their_row(
    spec: Any, entries: dict[tuple[str, str], dict[str, Any]]
) -> None:
    (shade,) = layers(spec, "rect")
    variance, absorption = records(spec, shade)  # only primary figures have one
    entry = entries["ortsae", "explained variance"]
    difference = float(entry["text"].split()[0])
    assert variance["x2"] / entry["x"] == pytest.approx(0.01 / difference, rel=0.01)
    assert absorption["x"] == -absorption["x2"]
    assert variance["y"] <= entry["y"] <= variance["y2"] <= absorption["y"]


def test_what_cannot_be_compared_is_grey_with_the_reason(
    spec: Any, entries: dict[tuple[str, str], dict[str, Any]]
) -> None:
    entry = entries["placebo", "full absorption"]
    assert entry["text"] == entry["why"] == "not comparable: H10 chance-level probes"
    grey = [layer for layer in layers(spec, "point") if layer["encoding"].get("color") == {"value": GREY}]
    assert grey
    assert all({"filter": "datum.why"} in layer["transform"] for layer in grey)
    assert {figure for (_, figure), entry in entries.items() if entry["why"]} == {"full absorption"}


def test_points_are_filled_if_significant_and_link_to_their_verdict(
    entries: dict[tuple[str, str], dict[str, Any]],
) -> None:
    assert entries["ortsae", "explained variance"]["filled"]
    assert not entries["placebo", "explained variance"]["filled"]
    assert {(variant, entry["url"]) for (variant, _), entry in entries.items()} == {
        ("placebo", "#verdict-0"),
        ("ortsae", "#verdict-1"),
    }
