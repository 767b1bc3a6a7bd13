"""The page as one string of HTML that needs nothing but itself: no network, no files beside it.

Its own policy (Content-Security-Policy) forbids it every request, and every script but the two that were put here; so
names that users choose can do nothing, even if they came through unescaped.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from saepipe.data.errors import MachineError
from saepipe.data.folders.health import RULES, errors
from saepipe.evaluate.compare.terminal import HEADINGS, cells_of
from saepipe.evaluate.report.chart import Section, Value, anchor
from saepipe.evaluate.report.provenance import Link
from saepipe.evaluate.report.story import Story, Told
from saepipe.evaluate.results.run_results import Row


@dataclass(frozen=True)
class Page:
    """What stands on it."""

    title: str
    summary: str
    """A paragraph."""
    story: Story
    sections: tuple[Section, ...]
    written_by: str

    @property
    def blocks(self) -> dict[str, str]:
        """The id of each run's block, by its label: `#run-l1-4-seed-0` leads there."""
        return {row.label: anchor(row.label) for row in self.story.rows}

    @property
    def columns(self) -> list[tuple[int, str]]:
        """Those of the table in the page's order, each with the key of its figure: what was measured comes before the
        settings, which stand once more below."""
        names, figures = self.story.table.columns, self.story.table.figures
        first = len(names) - len(figures)
        settings = [(place, "") for place in range(1, first - 1)]
        return [(0, ""), (first - 1, ""), *enumerate(figures, first), *settings]

    @property
    def notes(self) -> Iterator[str]:
        """Those of the table, less the findings, which the page begins with."""
        told = {f"{label}: {one.finding}" for one in self.story.findings for label in one.labels}
        told |= {str(one.finding) for one in self.story.findings}
        told |= {f"{found.pair}: {finding}" for found in self.story.table.verdicts for finding in found.findings}
        return (note for note in self.story.table.notes if note not in told)

    @property
    def origins(self) -> list[tuple[list[str], list[Link]]]:
        """What runs share, from their cache down to the data, and which runs those are."""
        found: dict[str, tuple[list[str], list[Link]]] = {}
        for row in self.story.rows:
            below = [link for link in self.story.provenance[row.label] if link.kind not in ("run", "source")]
            found.setdefault(row.run.cache_fingerprint, ([], below))[0].append(row.label)
        return list(found.values())


def by_rule(told: Sequence[Told]) -> list[tuple[str, list[Told]]]:
    """Errors before warnings; what one rule says stands together."""
    groups: dict[tuple[bool, str], list[Told]] = {}
    for one in told:
        groups.setdefault((one.finding.severity != "error", one.finding.rule), []).append(one)
    return [(rule, groups[warning, rule]) for warning, rule in sorted(groups, key=lambda group: group[0])]


def render(page: Page) -> str:
    """The same page gives the same text.

    Raises:
        MachineError: if the extra `report` is not installed.
    """
    try:
        import jinja2
    except ImportError:
        raise MachineError("a report needs Jinja2", hint="pip install 'saepipe[report]'") from None

    here = files(__package__)
    style, script = ((here / name).read_text() for name in ("page.css", "page.js"))
    bundle = javascript()
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters |= {
        "number": number,
        "cells": cells_of,
        "health": health,
        "told": lambda finding: Told(finding, ()),
    }
    template = environment.from_string((here / "page.html.j2").read_text())
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
    """Vega, Vega-Lite and Vega-Embed, of the versions that vl-convert carries; raises as `render` does."""
    try:
        import vl_convert
    except ImportError:
        raise MachineError("a report needs vl-convert-python", hint="pip install 'saepipe[report]'") from None
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def number(value: Value) -> str:
    """Six digits; nothing where there is no value."""
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def health(row: Row) -> str:
    """How many findings, in words."""
    num_errors = len(errors(row.findings))
    return counted({"error": num_errors, "warning": len(row.findings) - num_errors}) or (
        "healthy" if row.run.trained else "imported"
    )


def counted(counts: dict[str, int]) -> str:
    """`2 errors and 1 warning`; nothing where all are 0."""
    return " and ".join(f"{count} {name}{'s' if count > 1 else ''}" for name, count in counts.items() if count)


def _policy(*scripts: str) -> str:
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"


def _inline(text: str) -> Any:
    """Our own style and scripts, as they are: nothing of a user's is in them."""
    from markupsafe import Markup

    assert not re.search(r"</(script|style)|<!--", text, re.IGNORECASE), "it would end its element"
    return Markup(text)
