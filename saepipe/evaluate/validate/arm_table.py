"""Result of a validation: one row per arm, baseline and world, with a verdict supported by its intervals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table as RichTable

from saepipe.data.errors import ConfigError
from saepipe.data.folders.artifact import write_file
from saepipe.evaluate.stats.intervals import Estimate
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

MIN_ABSORBED = 0.01
"""If both the baseline and the arm absorb less than this, no penalty can show that it helps."""

INERT_SHARE = 1e-6
"""H1: a penalty whose gradient is below this share of the reconstruction's does nothing."""

AbsorptionVerdict = Literal["absorbs less", "no change in absorption seen", "absorbs more"]
PlaceboVerdict = Literal["better than", "indistinguishable from", "worse than"]
QualityVerdict = Literal["better", "worse"]
_ABSORPTION: Mapping[int, AbsorptionVerdict] = {
    -1: "absorbs less",
    0: "no change in absorption seen",
    1: "absorbs more",
}
_AGAINST_PLACEBO: Mapping[int, PlaceboVerdict] = {-1: "better than", 0: "indistinguishable from", 1: "worse than"}


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
    share: float | None  # of the penalty's gradient, mean over trials and measurements
    pairs: float | None  # number selected, mean over trials and measurements
    identical: bool
    why_not: str | None  # reason why it cannot be compared
    why_no_placebo: str | None
    arm_means: Mapping[str, Estimate]
    baseline_means: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]  # from the baseline, paired by seed
    from_placebo: Mapping[str, Estimate]  # difference from random pairs, paired by seed

    @property
    def inert(self) -> bool:
        """True if H1 or H2 applies."""
        return self.identical or (self.share is not None and self.share < INERT_SHARE)

    @property
    def verdict(self) -> str:
        """The verdicts that the intervals support, and no more, as one line."""
        if self.inert:
            return "inert: " + ("its SAEs equal the baseline's" if self.identical else "its gradient share is nearly 0")
        if self.why_not:
            return f"not compared: {self.why_not}"
        return "; ".join([*self._absorption(), *self._quality()])

    def _absorption(self) -> Iterator[str]:
        before, after = self.baseline_means["absorbed"].value, self.arm_means["absorbed"].value
        assert before is not None, "a compared row has its means"
        assert after is not None, "a compared row has its means"
        if max(before, after) < MIN_ABSORBED:
            yield f"too little absorption to judge (baseline {before:.3f})"
            return
        yield f"{_ABSORPTION[sign(self.differences['absorbed'])]} ({before:.3f} -> {after:.3f})"
        if self.from_placebo:
            yield f"{_AGAINST_PLACEBO[sign(self.from_placebo['absorbed'])]} random pairs"
        elif self.why_no_placebo:
            yield f"random pairs not compared: {self.why_no_placebo}"

    def _quality(self) -> Iterator[str]:
        for key, better in (("fvu", -1), ("mcc", 1)):
            side, name = sign(self.differences[key]), KEYS[key]
            if side == 0:
                yield f"no change in {name} seen"
            else:
                quality: QualityVerdict = "better" if side == better else "worse"
                yield f"{name} {quality} ({self.differences[key].value:+.3f})"

    def to_dict(self) -> dict[str, Any]:
        groups = ("arm_means", "baseline_means", "differences", "from_placebo")
        estimates = {
            group: {key: {"value": e.value, "low": e.low, "high": e.high} for key, e in getattr(self, group).items()}
            for group in groups
        }
        return {**vars(self), **estimates, "inert": self.inert, "verdict": self.verdict}


@dataclass(frozen=True)
class Table:
    """All rows of a validation, and its config."""

    rows: tuple[Row, ...]
    config: Mapping[str, Any]
    notes: tuple[str, ...]  # defects of penalties seen before training, and how to read the intervals

    def to_json(self) -> str:
        rows = [row.to_dict() for row in self.rows]
        content = {"config": self.config, "rows": rows, "notes": self.notes}
        return json.dumps(content, indent=2, allow_nan=False)

    def sections(self) -> Iterator[tuple[str, list[Row]]]:
        """Yields a title and its rows for each baseline and world."""
        for baseline, world, l0 in dict.fromkeys((row.baseline, row.world, row.l0) for row in self.rows):
            rows = [row for row in self.rows if (row.baseline, row.world) == (baseline, world)]
            yield f"{baseline}, {world} world, at L0 {l0:g}, {rows[0].seeds} seeds", rows


ABSORPTION = ("absorbed", "from the baseline", "from random pairs")
QUALITY = ("FVU", "MCC", "F1", "share")
COLUMNS = ("arm", *ABSORPTION, *QUALITY, "verdict")


def cells(row: Row) -> tuple[str, ...]:
    """Returns the row's cells under COLUMNS."""
    name = row.arm + (" (control)" if row.control else "") + (f" x {row.weight:g}" if row.weight is not None else "")
    share = "-" if row.share is None else f"{row.share:.2g}"
    if not row.arm_means:
        return (name, *["-"] * 6, share, row.verdict)
    absorbed = row.arm_means["absorbed"].value
    return (
        name,
        f"{absorbed:.3f}",
        _format_estimate(row.differences["absorbed"]),
        _format_estimate(row.from_placebo.get("absorbed")),
        *(_value_and_change(row, key) for key in ("fvu", "mcc", "f1")),
        share,
        row.verdict,
    )


def baseline_cells(row: Row) -> tuple[str, ...]:
    """Returns the baseline's cells under COLUMNS, taken from any row that was compared with it."""
    values = {key: f"{estimate.value:.3f}" for key, estimate in row.baseline_means.items()}
    return ("baseline", values["absorbed"], "-", "-", values["fvu"], values["mcc"], values["f1"], "-", "")


def _value_and_change(row: Row, key: str) -> str:
    return f"{row.arm_means[key].value:.3f} ({row.differences[key].value:+.3f})"


def _format_estimate(estimate: Estimate | None) -> str:
    """Returns `-0.369 [-0.40, -0.34]`."""
    if estimate is None or estimate.value is None:
        return "-"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:+.3f}"
    return f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"


def lines(rows: list[Row]) -> list[tuple[str, ...]]:
    """Returns the cells of one section: the baseline first, if any arm could be compared with it."""
    compared = next((row for row in rows if row.baseline_means), None)
    return ([baseline_cells(compared)] if compared else []) + [cells(row) for row in rows]


def render(table: Table, fits: Callable[[RenderableType], bool]) -> Iterator[RichTable | str]:
    """Renders each section as terminal tables, verdicts first, then the notes.

    Args:
        table: of a validation.
        fits: whether a table is no wider than the terminal; otherwise the figures are split into two narrow tables.
    """
    for title, rows in table.sections():
        yield _verdicts(title, rows)
        figures = _figures(rows, (*ABSORPTION, *QUALITY))
        if fits(figures):
            yield figures
        else:
            yield from (_figures(rows, columns, narrow=True) for columns in (ABSORPTION, QUALITY))
    yield from (f"- {note}" for note in table.notes)


def _verdicts(title: str, rows: list[Row]) -> RichTable:
    section = RichTable(title=title, title_justify="left", box=SIMPLE_HEAD, header_style="bold")
    section.add_column("arm", overflow="fold")
    section.add_column("verdict", overflow="fold", min_width=40)
    for line in lines(rows):
        if line[-1]:
            section.add_row(line[0], line[-1])
    return section


def _figures(rows: list[Row], columns: Sequence[str], *, narrow: bool = False) -> RichTable:
    """Returns a table of figures that never wraps one; `narrow`: an interval or a change is below its value."""
    section = RichTable(box=SIMPLE_HEAD, header_style="bold")
    section.add_column("arm", overflow="fold")
    for column in columns:
        section.add_column(column, no_wrap=True)
    for line in lines(rows):
        chosen = [line[COLUMNS.index(column)] for column in columns]
        section.add_row(line[0], *(_on_two_lines(cell) if narrow else cell for cell in chosen))
    return section


def _on_two_lines(cell: str) -> str:
    return cell.replace(" [", "\n[").replace(" (", "\n(")


def markdown(table: Table) -> str:
    """Renders the table of docs/penalties.md."""
    parts = []
    for title, rows in table.sections():
        head = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines(rows))
        parts.append(f"### {title}\n\n{head}\n{body}\n")
    notes = "".join(f"- {note}\n" for note in table.notes)
    return "\n".join([*parts, notes])


BEGIN, END = "<!-- table -->", "<!-- end of table -->"


def write_into(page: Path, table: Table) -> None:
    """Replaces what is between the page's two markers by the table.

    Raises:
        ConfigError: if the page does not have both markers in this order.
    """
    text = page.read_text() if page.is_file() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ConfigError(f"{page} has no table markers", hint=f"add a line {BEGIN!r} and, below it, a line {END!r}")
    write_file(page, f"{before}{begin}\n\n{markdown(table)}\n{end}{after}".encode())
