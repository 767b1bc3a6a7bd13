"""Reads runs, renders their report, and writes it as one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from saepipe.data.errors import ConfigError
from saepipe.data.folders import artifact
from saepipe.data.folders.health import errors
from saepipe.evaluate.report.page import Page, counted, render
from saepipe.evaluate.report.sections import sections
from saepipe.evaluate.report.story import Story

TITLE = "Comparison of sparse autoencoders"


def report(
    runs: Sequence[Path | str],
    out: Path | str = "report.html",
    *,
    baseline: Path | str | None = None,
    title: str | None = None,
) -> Path:
    """Writes a page that compares runs, as one file that opens without a network.

    Args:
        runs: run folders, with any evaluations.
        out: the page to write, atomically.
        baseline: the run that the others are compared with.
        title: title of the page.

    Raises:
        ConfigError: if there is no run, a run does not exist, or `out` is a folder.
        CorruptDataError: if a run is unfinished or damaged, or a result is not one of saepipe.
        MachineError: if the extra `report` is not installed.
        OutOfSpaceError: if the disk is full.

    Example:
        >>> sp.report(["runs/l1/seed-0", "runs/topk/seed-0"], "report.html", baseline="runs/l1/seed-0")
    """
    if not runs and baseline is None:
        raise ConfigError("a report needs at least one run", hint="saepipe report RUN...")
    out = Path(out)
    if out.is_dir():
        raise ConfigError(f"{out} is a folder", hint=f"-o {out / 'report.html'}")
    story = Story.read(runs, baseline)
    provenance = artifact.provenance()
    page = Page(
        title=title or TITLE,
        summary=summary(story),
        story=story,
        sections=tuple(sections(story)),
        written_by=f"Written by saepipe {provenance['saepipe']} (commit {provenance['commit']}).",
    )
    artifact.write_file(out, render(page).encode())
    return out


def summary(story: Story) -> str:
    """Returns a paragraph on what was compared, with what, and how many findings there are."""
    hooks = ", ".join(dict.fromkeys(row.run.hook for row in story.rows))
    models = ", ".join(
        dict.fromkeys(link.name for chain in story.provenance.values() for link in chain if link.kind == "model")
    )
    text = f"{counted({'run': len(story.rows)})} of {counted({'variant': len(story.variants)})} at {hooks}"
    text += f" of {models}" if models else ""
    text += f", compared with {story.baseline}" if story.baseline else ""
    findings = [reported.finding for reported in story.findings]
    counts = counted({"error": len(errors(findings)), "warning": len(findings) - len(errors(findings))})
    return f"{text}. The health rules found {counts or 'nothing'}."
