"""Reads runs, renders their report, and writes it as one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from saepipe.data.errors import ConfigError
from saepipe.data.folders import artifact
from saepipe.data.remote.places import folder_of, send
from saepipe.evaluate.report.browser_links import BrowserLinks
from saepipe.evaluate.report.charts.forest import forest
from saepipe.evaluate.report.conclusions import conclusions
from saepipe.evaluate.report.page import Page, render
from saepipe.evaluate.report.sections import sections
from saepipe.evaluate.report.story import Story

TITLE = "Comparison of sparse autoencoders"


def report(
    runs: Path | str | Sequence[Path | str],
    out: Path | str = "report.html",
    *,
    baseline: Path | str | None = None,
    title: str | None = None,
    browse: Path | str | None = None,
) -> Path:
    """Writes a page that compares runs, as one file that opens without a network.

    Args:
        runs: run folders, with any evaluations; the folder of a variant or study means all runs below it.
        out: the page to write, atomically.
        baseline: run, or variant, that the others are compared with.
        title: title of the page.
        browse: address of a feature browser, or its folder of static files, to which runs and latents are
            linked.

    Raises:
        ConfigError: if there is no run, a run does not exist, `out` is a folder, or `browse` is not a browser.
        CorruptDataError: if a run is unfinished or damaged, or a result is not one of saepipe.
        MachineError: if the extra `report` is not installed.
        OutOfSpaceError: if the disk is full.

    Example:
        >>> sp.report("runs", "report.html", baseline="runs/l1")
    """
    if not runs and baseline is None:
        raise ConfigError("a report needs at least one run", hint="saepipe report RUN...")
    out = folder_of(out)
    if out.is_dir():
        raise ConfigError(f"{out} is a folder", hint=f"-o {out / 'report.html'}")
    browser = BrowserLinks.find(browse, out) if browse is not None else None
    story = Story.read(runs, baseline)
    provenance = artifact.provenance()
    page = Page(
        title=title or TITLE,
        conclusions=conclusions(story),
        story=story,
        forest=forest(story),
        sections=tuple(sections(story, browser)),
        browser=browser,
        written_by=f"Written by saepipe {provenance['saepipe']} (commit {provenance['commit']}).",
    )
    artifact.write_file(out, render(page).encode())
    send(out)
    return out
