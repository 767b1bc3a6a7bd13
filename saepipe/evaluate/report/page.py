"""The page as one self-contained HTML string: no network, no other files.

Its own Content-Security-Policy forbids all requests, and all scripts but the two of the page, so a name chosen by a
user can do nothing even if it were not escaped.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from saepipe.data.errors import MachineError
from saepipe.data.folders.health import Finding, errors
from saepipe.data.folders.health_rules import RULES
from saepipe.evaluate.compare.notes import Note
from saepipe.evaluate.compare.verdict import Verdict
from saepipe.evaluate.report.browser_links import BrowserLinks
from saepipe.evaluate.report.chart import Chart, Section, Value, anchor
from saepipe.evaluate.report.charts.latent_roles import by_role
from saepipe.evaluate.report.conclusions import counted
from saepipe.evaluate.report.provenance import Link
from saepipe.evaluate.report.story import ReportedFinding, Story
from saepipe.evaluate.report.verdict_rows import HEADINGS, cells_of, changes_of
from saepipe.evaluate.results.run_results import Cell, Row


@dataclass(frozen=True)
class Page:
    """Content of the page."""

    title: str
    conclusions: tuple[str, ...]
    """Sentences that open the page, each a paragraph."""
    story: Story
    forest: Chart | None
    """Differences from the baseline; None if there are none."""
    sections: tuple[Section, ...]
    """Sections with charts; the first has the results, and comes before health."""
    written_by: str
    browser: BrowserLinks | None = None
    """Feature browser that runs and latents are linked to."""

    @property
    def blocks(self) -> dict[str, str]:
        """Id of each run's block by label; `#run-l1-4-seed-0` is a link to it."""
        return {row.label: anchor(row.label) for row in self.story.rows}

    @property
    def columns(self) -> list[tuple[int, str]]:
        """Indices of the table's columns in the page's order, with figure keys: run, health, figures.

        Settings have a section of their own.
        """
        health = 1 + len(self.story.table.settings)
        return [(0, ""), (health, ""), *enumerate(self.story.table.figures, health + 1)]

    @property
    def rows(self) -> list[tuple[str | Cell, ...]]:
        """Rows of the table, means over seeds first."""
        return sorted(self.story.table.rows, key=lambda row: row[0] in self.blocks)

    @property
    def notes(self) -> list[Note]:
        """Notes of the table without the findings, which are at the top of the page."""
        return [note for note in self.story.table.notes if note.finding is None]

    @property
    def origins(self) -> list[tuple[list[str], list[Link]]]:
        """Labels of the runs that share a cache, with the provenance from that cache to the data."""
        by_cache: dict[str, tuple[list[str], list[Link]]] = {}
        for row in self.story.rows:
            below = [link for link in self.story.provenance[row.label] if link.kind not in ("run", "source")]
            by_cache.setdefault(row.run.cache_fingerprint, ([], below))[0].append(row.label)
        return list(by_cache.values())


def by_rule(findings: Sequence[ReportedFinding]) -> list[tuple[str, list[ReportedFinding]]]:
    """Groups findings by severity and rule, errors first."""
    groups: dict[tuple[bool, str], list[ReportedFinding]] = {}
    for reported in findings:
        groups.setdefault((reported.finding.severity != "error", reported.finding.rule), []).append(reported)
    return [(rule, groups[warning, rule]) for warning, rule in sorted(groups, key=lambda group: group[0])]


def render(page: Page) -> str:
    """Renders the page as HTML; equal pages give equal text.

    Raises:
        MachineError: if the extra `report` is not installed.
    """
    try:
        import jinja2
    except ImportError:
        raise MachineError("a report needs Jinja2", hint="pip install 'saepipe[report]'") from None

    folder = files(__package__)
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    bundle = javascript()
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters |= {
        "number": number,
        "cells": cells_of,
        "changes": changes_of,
        "remarks": remarks,
        "by_role": by_role,
        "sentence": lambda text: f"{text[:1].upper()}{text[1:]}.",
        "health": health,
        "reported": lambda finding: ReportedFinding(finding, ()),
    }
    template = environment.from_string((folder / "page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        page=page,
        story=page.story,
        table=page.story.table,
        rules=RULES,
        by_rule=by_rule,
        headings=HEADINGS,
        style=_inline(style),
        script=_inline(script),
        bundle=_inline(bundle),
        policy=_policy(script, bundle),
    )


@cache
def javascript() -> str:
    """Returns Vega, Vega-Lite and Vega-Embed, in the versions that vl-convert carries; raises as `render`."""
    try:
        import vl_convert
    except ImportError:
        raise MachineError("a report needs vl-convert-python", hint="pip install 'saepipe[report]'") from None
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def number(value: Value) -> str:
    """Formats a number with six digits; an empty string if there is no value."""
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def health(row: Row) -> str:
    """Counts the findings of a run, in words."""
    num_errors = len(errors(row.findings))
    return counted({"error": num_errors, "warning": len(row.findings) - num_errors}) or (
        "healthy" if row.run.trained else "imported"
    )


def remarks(verdict: Verdict) -> list[Finding]:
    """Returns the findings about a comparison that its sentence does not tell."""
    sentence = str(verdict)
    return [f for f in (*verdict.comparison_findings, *verdict.findings) if f.message not in sentence]


def _policy(*scripts: str) -> str:
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"


def _inline(text: str) -> Any:
    """Marks our own style and scripts as safe HTML; they contain no user input."""
    from markupsafe import Markup

    assert not re.search(r"</(script|style)|<!--", text, re.IGNORECASE), "it would end its element"
    return Markup(text)
