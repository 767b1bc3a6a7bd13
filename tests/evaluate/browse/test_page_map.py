"""The map of all latents: what it shows, and that pointer and keyboard open a latent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from helpers.runs_to_browse import D_SAE
from helpers.site import ROWS, Site, column, heading
from saepipe.evaluate.features.store import FeatureStore

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page


def canvas_of(page: Page) -> Locator:
    page.wait_for_selector(ROWS)
    return page.locator(".map canvas")


def place(page: Page, latent: int, key: str, store: FeatureStore) -> tuple[float, float]:
    """Returns the pixels of a latent on the canvas, from the store's columns and the documented axes."""
    box, density, height = canvas_of(page).bounding_box(), store.columns["density"], store.columns[key]
    assert box is not None
    x, y = np.log10(density, where=density > 0, out=np.full(D_SAE, np.nan)), np.array(height, float)
    if key == "max_act":
        y = np.log10(y)
    y[density == 0] = np.nan

    def share(values: np.ndarray) -> float:
        low, high = np.nanmin(values), np.nanmax(values)
        return float(((values[latent] - low) / (high - low) + 0.02) / 1.04)

    return 52 + share(x) * (box["width"] - 66), box["height"] - 34 - share(y) * (box["height"] - 44)


@pytest.mark.parametrize("key", ["max_act", "top_neighbour_cosine"])
def test_a_latent_is_where_its_figures_are_and_a_click_opens_it(site: Site, key: str) -> None:
    store = FeatureStore.open(site.runs[0])
    page = site.open("#run=topk/seed-0&q=5")
    page.get_by_label("Density against").select_option(key)
    x, y = place(page, 5, key, store)
    canvas_of(page).hover(position={"x": x, "y": y})
    tip = page.locator(".tip")
    assert tip.inner_text().startswith("Latent 5 density")
    assert store.top_tokens(5)[0].strip() in tip.inner_text()
    assert 'words that begin with "k"' in tip.inner_text()
    assert f"y={key}" in page.url
    canvas_of(page).click(position={"x": x, "y": y})
    heading(page, "Latent 5")
    page.go_back()
    assert page.get_by_label("Density against").input_value() == key


def test_the_keyboard_moves_on_the_map(served: Site) -> None:
    store = FeatureStore.open(served.runs[0])
    page = served.open()
    canvas_of(page)
    page.keyboard.press("m")
    visited = []
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        visited.append(int(page.inner_text(".tip b").removeprefix("Latent ")))
    densities = store.columns["density"][visited]
    assert list(densities) == sorted(set(densities))
    assert f"Latent {visited[-1]} density" in page.inner_text("[role=status].unseen")
    page.keyboard.press("Enter")
    heading(page, f"Latent {visited[-1]}")


def test_dead_latents_are_counted_beside_the_map(served: Site) -> None:
    page = served.open()
    page.get_by_role("button", name=f"{D_SAE // 10} dead, not on the map").click()
    assert set(column(page, "density")) == {"dead"}
    assert page.get_by_text("not in the list").is_visible()
