"""The page as one string of HTML that needs nothing but itself: no network, no files beside it.

Its own policy (Content-Security-Policy) forbids it every request, and every script but the two that were put here; so
names that users choose can do nothing, even if they came through unescaped.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from saepipe.data.errors import MachineError
from saepipe.data.health import RULES, Finding
from saepipe.evaluate.compare import Table
from saepipe.evaluate.drawn import HEADINGS, cells_of
from saepipe.evaluate.report.chart import Section, Value, slug


@dataclass(frozen=True)
class RunBlock:
    """What the page says of one run, to be opened."""

    label: str
    summary: str
    """A few words beside its name."""
    findings: tuple[Finding, ...]
    facts: tuple[tuple[str, str], ...]
    """Where it comes from: names and values."""
    config: str
    """As YAML, resolved."""

    @property
    def id(self) -> str:
        return f"run-{slug(self.label)}"


@dataclass(frozen=True)
class Told:
    """A finding, and the runs of which it was said."""

    finding: Finding
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """Everything that stands on it, in its order."""

    title: str
    summary: str
    findings: tuple[Told, ...]
    """Errors before warnings."""
    unseen: str | None
    """Of which runs the rules could not look at the training."""
    table: Table
    sections: tuple[Section, ...]
    runs: tuple[RunBlock, ...]
    differences: tuple[tuple[str, ...], ...]
    """The config keys in which the runs differ: a heading, then a key and its value for each run."""
    chain: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    """From the runs back to their source: a heading, and what is known of it."""
    written_by: str


def grouped(findings: Sequence[tuple[str, Finding]]) -> tuple[Told, ...]:
    """What a rule says of several runs in the same words is told once; errors first, else in the order given."""
    labels: dict[Finding, list[str]] = {}
    for label, finding in findings:
        labels.setdefault(finding, []).append(label)
    told = [Told(finding, tuple(dict.fromkeys(runs))) for finding, runs in labels.items()]
    return tuple(sorted(told, key=lambda one: one.finding.severity != "error"))


def render(page: Page) -> str:
    """The same page gives the same text.

    Raises:
        MachineError: if the extra `report` is not installed.
    """
    try:
        import jinja2
        import vl_convert
    except ImportError as error:
        raise MachineError(f"a report needs {error.name}", hint="pip install 'saepipe[report]'") from None

    here = files(__package__)
    style, script = ((here / name).read_text() for name in ("page.css", "page.js"))
    bundle = vl_convert.javascript_bundle(None)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters |= {"number": number, "cells": cells_of}
    template = environment.from_string((here / "page.html.j2").read_text())
    return template.render(
        page=page,
        rules=RULES,
        headings=HEADINGS,
        blocks={block.label: block.id for block in page.runs},
        style=_inline(style),
        script=_inline(script),
        bundle=_inline(bundle),
        policy=_policy(script, bundle),
    )


def number(value: Value) -> str:
    """Six digits; nothing where there is no value."""
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _policy(*scripts: str) -> str:
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"


def _inline(text: str) -> Any:
    """Our own style and scripts, as they are: nothing of a user's is in them."""
    from markupsafe import Markup

    assert not re.search("</(script|style)|<!--", text, re.IGNORECASE), "it would end its element"
    return Markup(text)
