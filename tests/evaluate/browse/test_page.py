"""The page in a real browser: from the server, and from files with the network off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from helpers.chromium import screenshot, wait_until
from helpers.runs_to_browse import D_SAE, rewritten, serving, write_runs
from helpers.site import EVIL, ROWS, Site, column, heading
from saepipe.evaluate.features.store import FeatureStore

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def test_search_and_sort(site: Site, tmp_path: Path) -> None:
    page = site.open()
    page.wait_for_selector(ROWS)
    assert page.inner_text(".count") == f"{D_SAE} latents"
    screenshot(page, f"browse-list-{site.kind}", tmp_path, full_page=False)

    page.get_by_label("Search").fill("absorbs")
    assert column(page, "latent") == ["6"]
    assert page.inner_text("[role=status].unseen") == f"1 of {D_SAE} latents"
    page.get_by_label("Search").fill('"k" absorption')
    assert column(page, "latent") == ["5", "6"]
    page.get_by_label("Search").fill("latent for words that begin")  # a role is searched by its subjects alone
    assert page.inner_text(".count").startswith("0 of")
    page.get_by_label("Search").fill("149")
    assert "149" in column(page, "latent")
    page.get_by_label("Search").fill("")

    page.get_by_role("button", name="Density").click()
    assert page.locator("th.c-density").get_attribute("aria-sort") == "descending"
    shown = [float(text.removesuffix(" %")) for text in column(page, "density")]
    assert shown == sorted(shown, reverse=True)
    page.get_by_role("button", name="Density").click()
    assert page.locator("th.c-density").get_attribute("aria-sort") == "ascending"
    assert column(page, "density")[0] == "dead"
    page.get_by_label("Sort").select_option("-decoder_norm")
    assert page.locator("th.c-decoder_norm").is_visible()
    page.get_by_label("Show").select_option("dead")
    assert page.inner_text(".count") == f"{D_SAE // 10} of {D_SAE} latents"
    page.get_by_label("Show").select_option("role")
    assert sorted(column(page, "latent")) == ["5", "6"]


def test_a_search_for_a_whole_token_agrees_with_the_store(served: Site) -> None:
    store = FeatureStore.open(served.runs[0])
    word = next(token.strip() for token in store.top_tokens(3) if token.startswith(" word"))
    expected = [n for n in range(D_SAE) if any(token.strip() == word for token in store.top_tokens(n))]
    page = served.open()
    page.get_by_label("Search").fill(f'"{word}"')
    wait_until(page, "n => document.querySelector('.count').textContent.startsWith(`${n} of`)", len(expected))
    assert [int(text) for text in column(page, "latent")] == expected
    page.get_by_label("Search").fill(word[:-1])
    assert int(page.inner_text(".count").split()[0]) > len(expected)
    assert page.evaluate("location.hash").endswith(f"q={word[:-1]}")  # the search can be shared


def test_one_latent(site: Site, tmp_path: Path) -> None:
    page = site.open("#run=topk/seed-0&latent=5")
    heading(page, "Latent 5")
    assert "the latent for words that begin with “k”".replace("“", '"').replace("”", '"') in page.inner_text("aside")
    first = page.locator(".examples li").first
    hot = first.locator("strong.hot")
    assert hot.get_attribute("title").startswith(f"{first.locator('.peak').inner_text().split()[-1]} at position ")
    assert page.locator("svg.histogram").get_attribute("aria-label").startswith("Active tokens by activation; most in ")
    assert page.locator(".examples .unknown").first.inner_text() == "<bos>"
    assert not first.locator(".value").first.is_visible()
    page.keyboard.press("v")
    assert first.locator(".value").first.is_visible()
    screenshot(page, f"browse-latent-{site.kind}", tmp_path)
    assert page.get_by_text("no real counterpart").count() == 2  # both ways, in the run with another decoder
    page.locator(".bars a").first.click()
    wait_until(page, "() => document.querySelector('h1').textContent !== 'Latent 5'")
    page.go_back()
    heading(page, "Latent 5")


def test_a_weak_lead_is_not_called_a_role(served: Site) -> None:
    page = served.open("#run=topk/seed-0&latent=7")
    heading(page, "Latent 7")
    assert page.get_by_text("None that its F1 supports.").is_visible()
    page.get_by_text("Weak leads: 1").click()
    assert page.get_by_text('the latent for words that begin with "q" (F1 0.30)').is_visible()


def test_a_dead_latent(served: Site) -> None:
    page = served.open("#run=topk/seed-0&latent=9")
    heading(page, "Latent 9")
    assert "Dead: active on none of 12,600 tokens." in page.inner_text("main")


def test_side_by_side(site: Site, tmp_path: Path) -> None:
    page = site.open("#run=topk/seed-0&latent=5")
    heading(page, "Latent 5")
    page.get_by_role("link", name="topk_orthogonal/seed-0").click()
    heading(page, "Latent 5, side by side")
    assert page.inner_text(".told").split("\n\n") == [
        "Counterparts in topk_orthogonal/seed-0:",
        "By decoder: latent 5, cosine 1.00, Jaccard 1.00, correlation 1.00.",
        "By same tokens: latent 5, cosine 1.00, Jaccard 1.00, correlation 1.00.",
        "Jaccard index and correlation are of 400 random tokens that both stores sampled.",
    ]
    assert page.locator(".changes tbody tr").count() == 3
    assert (
        page.locator(".changes tr", has_text="Max act.").inner_text().endswith(" 1.33")
    )  # 4 against 3, by construction
    assert page.locator(".gains .lost").first.inner_text() == "lost none" or EVIL in page.inner_text(".gains")
    screenshot(page, f"browse-compare-{site.kind}", tmp_path, full_page=False)
    page.get_by_role("navigation", name="Other runs").get_by_role("link", name="jumprelu/seed-0").click()
    page.wait_for_selector(".warn")
    assert "jumprelu/seed-0 has no real counterpart." in page.inner_text(".warn")
    assert page.locator(".pair section").count() > 2
    firing = page.locator(".told p", has_text="By same tokens").get_by_role("link")
    name = firing.inner_text()
    firing.click()
    wait_until(page, "name => document.querySelector('.told b').textContent === name", name)
    assert page.url.endswith("&by=firing")
    assert page.locator(".heads a").last.inner_text() == f"jumprelu/seed-0 / {name.removeprefix('latent ')}"


def test_a_note_is_stored_and_searched(site: Site) -> None:
    page = site.open("#run=topk/seed-0&latent=12")
    heading(page, "Latent 12")
    page.get_by_label("Note on latent 12").fill("capital letters " + EVIL)
    page.get_by_role("button", name="Save").click()
    page.wait_for_selector("text=Saved, kept in")
    page.reload()
    heading(page, "Latent 12")
    assert page.get_by_label("Note on latent 12").input_value() == "capital letters " + EVIL
    page.keyboard.press("Escape")
    page.get_by_label("Search").fill("capital letters")
    assert column(page, "latent") == ["12"]
    assert column(page, "note") == ["capital letters " + EVIL]
    with page.expect_download() as download:
        page.get_by_role("button", name="Export notes").click()
    exported = json.loads(Path(download.value.path()).read_text())
    assert exported["notes"] == {"12": "capital letters " + EVIL}
    assert exported["run"] == (site.runs[0] / "COMMITTED").read_text().strip()
    if site.kind == "server":
        kept = json.loads((site.runs[0] / "notes.json").read_text())
        assert kept == exported | {"digest": kept["digest"]}

    site.go(page, "#run=topk/seed-0&latent=12")
    heading(page, "Latent 12")
    page.get_by_label("Note on latent 12").fill("")
    page.get_by_role("button", name="Save").click()
    page.wait_for_selector("text=Saved, kept in")
    page.reload()
    heading(page, "Latent 12")
    assert page.get_by_label("Note on latent 12").input_value() == ""


def test_the_keyboard_is_enough(site: Site) -> None:
    page = site.open()
    page.wait_for_selector(ROWS)
    press = page.keyboard.press
    press("/")
    page.keyboard.type("word")
    press("Enter")
    first = page.evaluate("document.activeElement.textContent")
    press("j")
    press("ArrowDown")
    press("k")
    second = page.evaluate("document.activeElement.textContent")
    assert [first, second] == column(page, "latent")[:2]
    press("Enter")
    heading(page, f"Latent {second}")
    assert page.evaluate("document.activeElement.tagName") == "H1"
    press("k")
    heading(page, f"Latent {first}")
    press("j")
    heading(page, f"Latent {second}")
    press("n")
    page.keyboard.type("jvc/")  # text, not commands, inside the note
    assert page.get_by_label(f"Note on latent {second}").input_value() == "jvc/"
    press("Escape")
    press("c")
    heading(page, f"Latent {second}, side by side")
    press("Escape")
    heading(page, f"Latent {second}")
    press("/")
    heading(page, "Latents of topk/seed-0")
    assert page.evaluate("document.activeElement.id") == "search"
    press("Escape")
    assert page.evaluate("document.activeElement.textContent") == second
    press("Escape")
    assert page.inner_text(".count") == f"{D_SAE} latents"
    for _ in range(30):
        press("j")
    assert page.evaluate("document.activeElement.textContent") == str(int(page.evaluate("list.found[list.place]")))
    assert page.locator(ROWS).count() < D_SAE  # rows out of view are not in the document


def test_tokens_are_only_text(served: Site) -> None:
    page = served.open()
    page.get_by_label("Search").fill("onerror")
    page.locator(ROWS).first.wait_for()
    page.locator(f"{ROWS} a").first.click()
    page.wait_for_selector(".examples")
    assert EVIL in page.inner_text("main")
    assert page.locator("main img").count() == 0
    assert page.title().startswith("Latent ")


def test_names_of_runs_are_only_text(browser: Browser, tmp_path: Path) -> None:
    run, other = write_runs(tmp_path / "runs")[:2]
    name = "<img src=x onerror=document.title=1>&latent=3"
    rewritten(run, variant=name)
    site = Site("", [run], "server", browser.new_context)
    with serving([run, other]) as (site.url, _):
        page = site.open()
        page.wait_for_selector(ROWS)
        assert page.locator("#run option").first.inner_text() == f"{name}/seed-0"
        page.locator(f"{ROWS} a").first.click()
        heading(page, "Latent 0")
        page.keyboard.press("c")
        heading(page, "Latent 0, side by side")
        page.reload()
        heading(page, "Latent 0, side by side")
        assert page.locator("main img").count() == 0
    assert site.complaints == []


def test_missing_views_are_reported(served: Site) -> None:
    page = served.open("#run=topk/seed-0&latent=99999")
    assert page.inner_text("[role=alert]") == "topk/seed-0 has no latent 99999."
    served.go(page, "#run=gone/seed-1")
    page.wait_for_selector("text=No open run is called gone/seed-1.")
    page.keyboard.press("Escape")
    heading(page, "Latents of topk/seed-0")


def test_the_token_is_removed_from_the_address(served: Site) -> None:
    page = served.open()
    page.wait_for_selector(ROWS)
    assert "token" not in page.url
    assert page.evaluate("document.cookie") == ""
    page.reload()
    page.wait_for_selector(ROWS)


def test_a_stopped_server_is_reported(browser: Browser, hostile_runs: list[Path]) -> None:
    with serving(hostile_runs) as (url, process):
        page = Site(url, hostile_runs, "server", browser.new_context).open()
        page.wait_for_selector(ROWS)
        process.terminate()
        process.wait()
        page.evaluate("location.hash = '#run=jumprelu/seed-0'")
        page.wait_for_selector("text=The server does not answer. Is saepipe browse still running?")


@pytest.mark.parametrize(("scheme", "width"), [("dark", 1280), ("light", 390)])
def test_dark_and_on_a_phone(served: Site, scheme: str, width: int, tmp_path: Path) -> None:
    page = served.open(color_scheme=scheme, viewport={"width": width, "height": 800})
    page.wait_for_selector(ROWS)
    addresses = {
        "list": "",
        "latent": "#run=topk/seed-0&latent=5",
        "compare": "#run=topk/seed-0&latent=5&with=jumprelu/seed-0",
    }
    for view, where in addresses.items():
        if where:
            page.evaluate("where => { location.hash = where; }", where)
            page.wait_for_selector(".examples" if view == "latent" else ".pair .examples")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view  # nothing overflows
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(22, 24, 27)" if scheme == "dark" else "rgb(253, 252, 250)")
        screenshot(page, f"browse-{view}-{scheme}-{width}", tmp_path, full_page=False)
