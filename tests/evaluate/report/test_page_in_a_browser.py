"""The page in a real browser: from a file, without a network, by mouse and keyboard, on a phone, in both themes."""

from __future__ import annotations

import csv
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from helpers.chromium import screenshot, wait_until
from saepipe.data.folders.health import Finding
from saepipe.evaluate.report.chart import anchor
from saepipe.evaluate.report.charts.drawing import COLOURS
from saepipe.evaluate.report.page import Page as ReportPage
from saepipe.evaluate.report.page import render
from saepipe.evaluate.report.run import report

pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'saepipe[dev]'")
from playwright.sync_api import Browser, Page

WARNING = Finding("H1", "warning", "l1 never had a gradient: give it a weight", "l1")
ERROR = Finding("H9", "error", "all latents are dead: a smaller weight would do")
RENDER_ALL = "Promise.all([...document.querySelectorAll('.chart')].map(once)).then(() => null)"
CONTRAST = """(selector) => {
  const levels = (color) => color.match(/[\\d.]+/g).slice(0, 3).map((x) => x / 255)
    .map((x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
  const light = (color) => { const [r, g, b] = levels(color); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  return [...document.querySelectorAll(selector)].map((element) => {
    let behind = element;
    while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
    const pair = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor].map(light);
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  });
}"""


@pytest.fixture(scope="module")
def path(make_page: Callable[..., ReportPage], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(make_page(findings=(WARNING, ERROR), title="Four weights of one penalty")))
    return path


@pytest.fixture
def opened(browser: Browser, path: Path) -> Iterator[Callable[..., Page]]:
    """Opens the page in a new offline context; any message, error or request fails the test."""
    contexts, complaints = [], []

    def open_page(
        width: int = 1280, height: int = 900, file: Path = path, errors_only: bool = False, **settings: Any
    ) -> Page:
        levels = {"error"} if errors_only else {"error", "warning", "info", "log"}
        context = browser.new_context(viewport={"width": width, "height": height}, offline=True, **settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type in levels else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url) if request.url != file.as_uri() else None)
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def test_it_opens_from_a_file_without_a_network_and_renders_every_chart(opened, tmp_path: Path) -> None:
    page = opened()
    assert page.locator("svg").count() < 5  # charts far below are not rendered yet
    page.evaluate(RENDER_ALL)
    assert page.locator(".plot svg").count() == page.locator(".chart").count() == 5
    assert page.locator("#pareto-ev .plot .mark-symbol.role-mark path").count() == 4
    screenshot(page, "report-light", tmp_path)


def test_charts_are_rendered_as_they_come_into_view(opened) -> None:
    page = opened(height=300)
    last = page.locator(".chart").last
    assert last.locator("svg").count() == 0
    last.scroll_into_view_if_needed()
    last.locator("svg").wait_for()


def test_the_theme_follows_the_system_or_the_button_and_is_remembered(opened, tmp_path: Path) -> None:
    page = opened(color_scheme="dark")
    page.evaluate(RENDER_ALL)
    background = "getComputedStyle(document.body).backgroundColor"
    label = "getComputedStyle(document.querySelector('#pareto-ev .role-axis-label text')).fill"
    dark = page.evaluate(background), page.evaluate(label)
    screenshot(page, "report-dark", tmp_path)
    assert page.get_by_role("button", name="Dark").get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="Dark").click()
    page.evaluate(RENDER_ALL)
    light = page.evaluate(background), page.evaluate(label)
    assert dark[0] == "rgb(19, 22, 25)"
    assert light[0] == "rgb(250, 250, 248)"
    assert sum(map(int, re.findall(r"\d+", dark[1]))) > sum(map(int, re.findall(r"\d+", light[1])))
    page.reload()
    assert page.evaluate(background) == light[0]
    assert page.get_by_role("button", name="Dark").get_attribute("aria-pressed") == "false"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(opened, scheme: str) -> None:
    page = opened(color_scheme=scheme)
    ratios = page.evaluate(CONTRAST, "p, li, a, th, td, dt, dd, h1, h2, h3, h4, small, button, summary, .severity")
    assert len(ratios) > 100
    assert min(ratios) >= 4.5  # WCAG 2.2, 1.4.3


def test_a_phone_does_not_scroll_sideways(opened, tmp_path: Path) -> None:
    page = opened(360, 740, has_touch=True, is_mobile=True)
    page.evaluate(RENDER_ALL)
    for details in page.locator("details").all():
        details.evaluate("(element) => { element.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert (
        page.evaluate("Math.max(...[...document.querySelectorAll('.plot svg')].map((svg) => svg.clientWidth))") <= 360
    )
    sideways = ".scroll, pre"
    assert page.locator(sideways).count() == page.locator(":is(.scroll, pre)[tabindex='0'][aria-label]").count()
    for details in page.locator("details").all():
        details.evaluate("(element) => { element.open = false; }")
    screenshot(page, "report-phone", tmp_path)


def saved(page: Page, name: str) -> tuple[str, bytes]:
    with page.expect_download() as download:
        page.locator("#pareto-ev").get_by_role("button", name=re.compile(f"as {name}$")).click()
    return download.value.suggested_filename, download.value.path().read_bytes()


def test_buttons_save_the_chart_in_four_formats(opened) -> None:
    page = opened()
    name, svg = saved(page, "SVG")
    assert name == "pareto-ev.svg"
    assert svg.startswith(b"<svg")
    assert b"explained variance" in svg
    name, png = saved(page, "PNG")
    assert name == "pareto-ev.png"
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert int.from_bytes(png[16:20]) > 1000  # width in pixels: twice that on the screen
    name, table = saved(page, "CSV")
    lines = list(csv.reader(io.StringIO(table.decode())))
    assert name == "pareto-ev.csv"
    assert lines[0] == ["run", "L0", "explained variance"]
    assert lines[1] == ["l1=0/seed-0", "10", "0.75"]
    assert len(lines) == 5
    name, spec = saved(page, "spec")
    assert name == "pareto-ev.vl.json"
    assert json.loads(spec)["encoding"]["x"]["field"] == "l0"


def test_the_keyboard_is_enough(opened) -> None:
    page = opened()
    focused = "document.activeElement.textContent.trim()"
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "Skip to content"
    assert page.locator(".skip").bounding_box()["y"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    reached = []
    while not reached or reached[-1] != "spec":
        page.keyboard.press("Tab")
        reached.append(page.evaluate(focused))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        assert len(reached) < 60
    assert reached[-4:] == ["SVG", "PNG", "CSV", "spec"]
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == "pareto-ev.vl.json"


def test_every_click_on_a_point_opens_its_run(opened) -> None:
    page = opened()
    point = page.locator("#pareto-ev .mark-symbol.role-mark path").nth(2)
    block = anchor("l1=2/seed-0")
    run = page.locator(f"#{block}")
    for _ in range(2):
        point.click()
        run.locator("pre").wait_for(state="visible")
        assert page.evaluate("document.activeElement.parentElement.id") == block
        assert page.locator("details.run[open]").count() == 1
        run.locator("summary").click()
        run.locator("pre").wait_for(state="hidden")
    page.locator("#comparison").get_by_role("link", name="l1=3/seed-0").click()
    page.locator(f"#{anchor('l1=3/seed-0')} pre").wait_for(state="visible")


def test_everything_has_a_name_and_headings_do_not_skip(opened) -> None:
    page = opened()
    page.evaluate(RENDER_ALL)
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map((heading) => +heading.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for role in ("banner", "navigation", "main", "contentinfo"):
        assert page.get_by_role(role).count() == 1, role
    for role in ("figure", "img", "button", "link", "region"):
        elements = page.get_by_role(role)
        assert elements.count() > 0, role
        assert page.get_by_role(role, name=re.compile(r"\w")).count() == elements.count(), role
    assert page.evaluate("[...document.querySelectorAll('th')].every((cell) => cell.scope)")
    assert page.evaluate("document.documentElement.lang") == "en"


def colours(pdf: bytes) -> set[str]:
    """Fill colours of its pages, as `red green blue` from 0 to 1."""
    fills: set[bytes] = set()
    for stream in re.finditer(rb"stream\r?\n", pdf):
        with suppress(zlib.error):  # not every stream is compressed
            text = zlib.decompressobj().decompress(pdf[stream.end() :])
            fills.update(re.findall(rb"([\d.]+ [\d.]+ [\d.]+) rg", text))
    return {colour.decode() for colour in fills}


def test_print_shows_every_chart_in_light_colours(opened) -> None:
    page = opened(color_scheme="dark")
    filled = colours(page.pdf(print_background=True))
    assert page.locator(".plot svg").count() == 5
    light_labels, dark_labels, dark_card = ".349 .3882 .4314", ".6078 .651 .6941", ".102 .1176 .1333"
    assert light_labels in filled
    assert not {dark_labels, dark_card} & filled
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 22, 25)"


def test_without_javascript_the_tables_are_shown(opened) -> None:
    page = opened(java_script_enabled=False)
    assert page.get_by_text("The charts need JavaScript, which is off").is_visible()
    assert not page.get_by_role("button").first.is_visible()
    page.locator("#pareto-ev summary").click()
    assert page.locator("#pareto-ev table").is_visible()


def test_names_chosen_by_users_cannot_act(opened, make_page: Callable[..., ReportPage], tmp_path: Path) -> None:
    attack = "<img src=x onerror='window.attacked=1'><script>window.attacked=1<script>"
    file = tmp_path / "attacked.html"
    file.write_text(render(make_page(attack, (Finding("H1", "error", attack),), title=attack)))
    page = opened(file=file)
    page.evaluate(RENDER_ALL)
    page.locator("#pareto-ev .mark-symbol.role-mark path").first.hover()
    page.locator("#vg-tooltip-element.visible").wait_for()
    assert attack in page.locator("#vg-tooltip-element").inner_text()
    assert page.evaluate("window.attacked") is None
    assert page.locator("h1").inner_text() == attack
    assert page.locator("img").count() == 0


@pytest.fixture(scope="module")
def compared(study: dict[str, list[Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Report of a study with verdicts, linked to a feature browser."""
    runs = [run for runs in study.values() for run in runs]
    out = tmp_path_factory.mktemp("compared") / "report.html"
    return report(runs, out, baseline=study["l1"][0], browse="http://127.0.0.1:1/")


def test_conclusions_and_the_forest_plot_are_on_the_first_screen(opened, compared: Path, tmp_path: Path) -> None:
    page = opened(1400, 900, file=compared, errors_only=True)
    page.locator("#forest svg").wait_for()
    assert page.locator("#forest").bounding_box()["y"] + page.locator("#forest").bounding_box()["height"] <= 900
    assert page.locator("header .verdict").inner_text().startswith("In the primary metrics, ortsae is better")
    labels = page.locator("#forest .role-axis-label text").all_text_contents()
    assert "primary" in " ".join(labels)
    assert any("not comparable: H10" in label for label in labels)
    screenshot(page, "report-forest", tmp_path, full_page=False)


def test_on_a_phone_the_forest_plot_keeps_its_rows_without_the_numbers(opened, compared: Path) -> None:
    page = opened(390, 844, file=compared, errors_only=True)
    page.locator("#forest svg").wait_for()
    text = " ".join(page.locator("#forest .role-axis-label text").all_text_contents())
    assert "explained variance" in text
    assert "within noise" not in text
    assert page.locator("#forest svg").bounding_box()["width"] <= 390


def test_the_contents_stand_below_the_forest_plot_on_a_phone_and_beside_it_elsewhere(
    opened, compared: Path, tmp_path: Path
) -> None:
    phone = opened(390, 844, file=compared, errors_only=True)
    phone.locator("#forest svg").wait_for()
    boxes = [phone.locator(name).bounding_box() for name in ("header", "#forest", "nav", "#verdicts")]
    assert all(above["y"] + above["height"] <= below["y"] for above, below in pairwise(boxes))
    screenshot(phone, "report-contents-phone", tmp_path, full_page=False)
    desk = opened(1400, 900, file=compared, errors_only=True)
    forest, contents, verdicts = (desk.locator(name).bounding_box() for name in ("#forest", "nav", "#verdicts"))
    assert contents["x"] + contents["width"] <= min(forest["x"], verdicts["x"])
    assert contents["y"] <= forest["y"]


def test_a_point_of_the_forest_plot_leads_to_its_verdict(opened, compared: Path) -> None:
    page = opened(1400, 900, file=compared, errors_only=True)
    page.locator(f"#forest .mark-symbol.role-mark path[fill='{COLOURS[2]}' i]").first.click()
    wait_until(page, "location.hash === '#verdict-1'")


def test_a_table_that_scrolls_says_so(opened, compared: Path) -> None:
    page = opened(390, 844, file=compared, errors_only=True)
    hint = "(scroller) => getComputedStyle(scroller, '::before').content"
    table = page.locator("#comparison .scroller")
    wait_until(page, "document.querySelector('#comparison .scroller.right') !== null")
    assert "scroll sideways" in table.evaluate(hint)
    table.locator(".scroll").evaluate("(scroll) => { scroll.scrollLeft = scroll.scrollWidth; }")
    wait_until(page, "document.querySelector('#comparison .scroller.left:not(.right)') !== null")
    wide = opened(1900, 900, file=compared, errors_only=True)
    wide.wait_for_timeout(100)
    assert wide.locator("#verdicts .scroller").first.evaluate(hint) == "none"


def test_runs_and_latents_lead_to_the_feature_browser(opened, compared: Path) -> None:
    page = opened(file=compared, errors_only=True)
    page.evaluate("location.hash = '#run-ortsae-seed-1'")
    run = page.locator("#run-ortsae-seed-1")
    links = run.locator("a[href^='http']").evaluate_all("(links) => links.map((link) => link.href)")
    assert links[0] == "http://127.0.0.1:1/#run=ortsae/seed-1"
    assert "http://127.0.0.1:1/#run=ortsae/seed-1&latent=7" in links


def test_a_point_of_a_pareto_plot_leads_to_the_feature_browser(opened, compared: Path) -> None:
    page = opened(file=compared, errors_only=True)
    keep = "function () { window.followed = [this.href, this.rel]; }"  # the link that a chart makes of a click
    page.evaluate(f"HTMLAnchorElement.prototype.dispatchEvent = {keep}")
    page.locator("#pareto-explained-variance").scroll_into_view_if_needed()
    page.locator("#pareto-explained-variance .mark-symbol.role-mark path").first.click()
    wait_until(page, "window.followed")
    assert page.evaluate("window.followed") == ["http://127.0.0.1:1/#run=l1/seed-0", "noreferrer"]


def test_a_report_of_runs_opens_without_a_network_and_renders_every_chart(
    opened, make_study: Callable[[int, int], list[Path]], tmp_path: Path
) -> None:
    runs = make_study(3, 50)
    page = opened(file=report(runs, tmp_path / "report.html", baseline=runs[0]), errors_only=True)
    page.evaluate(RENDER_ALL)
    charts = page.locator(".chart").count()
    assert charts >= 12
    screenshot(page, "report-of-runs", tmp_path)
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((element) => element.id)")
    assert len(set(ids)) == len(ids)
    links = page.evaluate("[...document.querySelectorAll('a')].map((link) => link.hash.slice(1))")
    assert set(links) <= set(ids)
    assert page.locator(".plot svg").count() == charts
    page.locator("#pareto-explained-variance .mark-symbol.role-mark path").first.click()
    page.locator(".run[open] pre").wait_for()
