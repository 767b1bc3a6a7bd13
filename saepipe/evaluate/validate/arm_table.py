"""What a validation found: one row for each arm, baseline and world, with a verdict that its intervals carry."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable

from saepipe.data.errors import ConfigError
from saepipe.data.folders.artifact import write_file
from saepipe.evaluate.stats.intervals import Estimate
from saepipe.evaluate.stats.l0_curves import plain, shown
from saepipe.evaluate.stats.paired_seeds import sign

KEYS = {
    "absorbed": "absorbed",
    "absorbed_half": "absorbed >= half",
    "absorbed_fraction": "absorbed fraction",
    "fvu": "FVU",
    "mcc": "MCC",
    "f1": "F1",
    "f1_parents": "F1 parents",
    "leak": "leak",
    "splitting": "splitting",
    "hedging": "hedging",
    "dead": "dead",
    "max_cosine": "max cosine",
}
"""Metrics at the matched L0, and their headings."""

LEAST_ABSORBED = 0.01
"""Where neither the baseline nor the arm absorbs as much, no penalty can show that it helps."""

INERT_SHARE = 1e-6
"""H1: a penalty whose gradient is below this share of the reconstruction's does nothing."""


@dataclass(frozen=True)
class Row:
    """One arm on one world."""

    arm: str
    control: bool
    baseline: str
    world: str
    weight: float | None  # chosen on other seeds
    l0: float
    seeds: int
    share: float | None  # of the penalty's gradient, mean over runs and looks
    pairs: float | None  # selected, mean over runs and looks
    identical: bool
    why_not: str | None  # why it cannot be compared
    why_no_placebo: str | None
    arm_means: Mapping[str, Estimate]
    baseline_means: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]  # from the baseline, paired by seed
    from_placebo: Mapping[str, Estimate]  # from random pairs, paired by seed

    @property
    def inert(self) -> bool:
        """H1 and H2."""
        return self.identical or (self.share is not None and self.share < INERT_SHARE)

    @property
    def verdict(self) -> str:
        """What the intervals carry, and no more."""
        if self.inert:
            return "inert: " + ("its SAEs are the baseline's" if self.identical else "its gradient share is nearly 0")
        if self.why_not:
            return f"not compared: {self.why_not}"
        return "; ".join([*self._absorption(), *self._price()])

    def _absorption(self) -> Iterator[str]:
        before, now = self.baseline_means["absorbed"].value, self.arm_means["absorbed"].value
        assert before is not None, "a row that is compared has its means"
        assert now is not None, "a row that is compared has its means"
        if max(before, now) < LEAST_ABSORBED:
            yield f"absorption has nothing to show here: the baseline's is {before:.3f}"
            return
        words = {-1: "absorbs less", 0: "no change in absorption seen", 1: "absorbs more"}
        yield f"{words[sign(self.differences['absorbed'])]} ({before:.3f} -> {now:.3f})"
        if self.from_placebo:
            words = {-1: "better than random pairs", 0: "not told from random pairs", 1: "worse than random pairs"}
            yield words[sign(self.from_placebo["absorbed"])]
        elif self.why_no_placebo:
            yield f"random pairs not compared: {self.why_no_placebo}"

    def _price(self) -> Iterator[str]:
        for key, better in (("fvu", -1), ("mcc", 1)):
            side, name = sign(self.differences[key]), KEYS[key]
            if side == 0:
                yield f"no change in {name} seen"
            else:
                yield f"{name} {'better' if side == better else 'worse'} ({self.differences[key].value:+.3f})"

    def to_dict(self) -> dict[str, Any]:
        groups = ("arm_means", "baseline_means", "differences", "from_placebo")
        estimates = {name: {key: plain(value) for key, value in getattr(self, name).items()} for name in groups}
        return {**vars(self), **estimates, "inert": self.inert, "verdict": self.verdict}


@dataclass(frozen=True)
class Table:
    """All rows of a validation, and the config they come from."""

    rows: tuple[Row, ...]
    config: Mapping[str, Any]
    notes: tuple[str, ...]  # what is wrong with a penalty before it is trained, and how to read the intervals

    def to_json(self) -> str:
        rows = [row.to_dict() for row in self.rows]
        plain = {"config": self.config, "rows": rows, "notes": self.notes}
        return json.dumps(plain, indent=2, allow_nan=False)

    def sections(self) -> Iterator[tuple[str, list[Row]]]:
        """A title and its rows, for each baseline and world."""
        for baseline, world, l0 in dict.fromkeys((row.baseline, row.world, row.l0) for row in self.rows):
            rows = [row for row in self.rows if (row.baseline, row.world) == (baseline, world)]
            yield f"{baseline}, {world} world, at L0 {l0:g}, {rows[0].seeds} seeds", rows


COLUMNS = ("arm", "absorbed", "from the baseline", "from random pairs", "FVU", "MCC", "F1", "share", "verdict")


def cells(row: Row) -> tuple[str, ...]:
    """The row under COLUMNS."""
    name = row.arm + (" (control)" if row.control else "") + (f" x {row.weight:g}" if row.weight is not None else "")
    share = "-" if row.share is None else f"{row.share:.2g}"
    if not row.arm_means:
        return (name, *["-"] * 6, share, row.verdict)
    absorbed = row.arm_means["absorbed"].value
    return (
        name,
        f"{absorbed:.3f}",
        shown(row.differences["absorbed"]),
        shown(row.from_placebo.get("absorbed")),
        *(_value_and_change(row, key) for key in ("fvu", "mcc", "f1")),
        share,
        row.verdict,
    )


def baseline_cells(row: Row) -> tuple[str, ...]:
    """The baseline's own line under COLUMNS, from any row that was compared with it."""
    values = {key: f"{estimate.value:.3f}" for key, estimate in row.baseline_means.items()}
    return ("baseline", values["absorbed"], "-", "-", values["fvu"], values["mcc"], values["f1"], "-", "")


def _value_and_change(row: Row, key: str) -> str:
    return f"{row.arm_means[key].value:.3f} ({row.differences[key].value:+.3f})"


def lines(rows: list[Row]) -> list[tuple[str, ...]]:
    """One section under COLUMNS: the baseline first, where any arm could be compared with it."""
    compared = next((row for row in rows if row.baseline_means), None)
    return ([baseline_cells(compared)] if compared else []) + [cells(row) for row in rows]


def drawn(table: Table) -> Iterator[RichTable | str]:
    """The sections as tables for people, then the notes."""
    for title, rows in table.sections():
        section = RichTable(*COLUMNS, title=title, title_justify="left", box=SIMPLE_HEAD, header_style="bold")
        for line in lines(rows):
            section.add_row(*line)
        yield section
    yield from (f"- {note}" for note in table.notes)


def markdown(table: Table) -> str:
    """The table of docs/penalties.md."""
    parts = []
    for title, rows in table.sections():
        head = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines(rows))
        parts.append(f"### {title}\n\n{head}\n{body}\n")
    notes = "".join(f"- {note}\n" for note in table.notes)
    return "\n".join([*parts, notes])


BEGIN, END = "<!-- table -->", "<!-- end of table -->"


def write_into(page: Path, table: Table) -> None:
    """Puts the table between the page's two marks.

    Raises:
        ConfigError: if the page does not have them, once each and in this order.
    """
    text = page.read_text() if page.is_file() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ConfigError(f"{page} has no place for the table", hint=f"a line {BEGIN!r} and, below it, a line {END!r}")
    write_file(page, f"{before}{begin}\n\n{markdown(table)}\n{end}{after}".encode())
