"""Result of a validation on SynthSAEBench: one line per row, with differences that are paired by seed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable

from saepipe.evaluate.stats.intervals import Estimate
from saepipe.evaluate.stats.paired_seeds import sign
from saepipe.evaluate.validate.synthbench_rows import SIZES, WORLD

KEYS = ("f1", "mcc", "uniqueness", "explained_variance", "l0", "dead")
JUDGED = {"f1": "F1", "mcc": "MCC", "explained_variance": "explained variance"}
"""Metrics on which a verdict is passed; more is better."""

SMALL = (
    f"this is no result of SynthSAEBench, which has {SIZES['full']} (--set size=full): a smaller world by the same "
    "recipe, whose rows can be compared with each other"
)
READING = "intervals are 95 %, by Student's t over the differences of each seed; weights were not tuned on this world"


@dataclass(frozen=True)
class BenchRow:
    """One SAE setting of the benchmark."""

    name: str
    seeds: int
    means: Mapping[str, Estimate]
    from_baseline: Mapping[str, Estimate]  # empty for the baseline itself
    from_random: Mapping[str, Estimate]  # empty without a placebo

    @property
    def verdict(self) -> str:
        """Sentence that says only what the intervals support."""
        judged = [_judged(heading, self.from_baseline[key]) for key, heading in JUDGED.items() if self.from_baseline]
        if self.from_random:
            judged.append(f"{_judged('F1', self.from_random['f1'])} against random pairs")
        return "; ".join(judged)


@dataclass(frozen=True)
class BenchTable:
    """All rows of a validation, the baseline first, and the size that was run."""

    rows: tuple[BenchRow, ...]
    size: str
    sizes: str  # features, latents, samples
    config: Mapping[str, Any]

    @property
    def title(self) -> str:
        return f"{WORLD}, size {self.size}: {self.sizes}, {self.config['num_seeds']} seeds"

    @property
    def notes(self) -> tuple[str, ...]:
        return (READING,) if self.size == "full" else (SMALL, READING)

    def with_rows(self, rows: Sequence[BenchRow]) -> BenchTable:
        return replace(self, rows=tuple(rows))

    def to_json(self) -> str:
        rows = [{**asdict(row), "verdict": row.verdict} for row in self.rows]
        content = {"world": self.title, "size": self.size, "config": self.config, "rows": rows, "notes": self.notes}
        return json.dumps(content, indent=2, allow_nan=False)


def render_bench(table: BenchTable) -> Iterator[RichTable | str]:
    """Renders the figures, the verdicts and the notes for a terminal."""
    figures = RichTable(title=table.title, title_justify="left", box=SIMPLE_HEAD, header_style="bold")
    verdicts = RichTable(box=SIMPLE_HEAD, header_style="bold")
    for column in ("row", *KEYS):
        figures.add_column(column, overflow="fold" if column == "row" else "ellipsis", no_wrap=column != "row")
    for column in ("row", "verdict"):
        verdicts.add_column(column, overflow="fold")
    for row in table.rows:
        figures.add_row(row.name, *(_cell(row, key) for key in KEYS))
        if row.verdict:
            verdicts.add_row(row.name, row.verdict)
    yield figures
    yield verdicts
    yield from (f"- {note}" for note in table.notes)


def _cell(row: BenchRow, key: str) -> str:
    change = row.from_baseline.get(key)
    value = f"{row.means[key].value:.3f}"
    return value if change is None else f"{value}\n({change.value:+.3f})"


def _judged(heading: str, difference: Estimate) -> str:
    word = {-1: "worse", 0: "", 1: "better"}[sign(difference)]
    return f"{heading} {word} ({difference.value:+.3f})" if word else f"no change in {heading} seen"
