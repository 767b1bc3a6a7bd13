"""What lies in the folder of one run: its health, and its evaluations, each checked to be of this very run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from saepipe.data.config.base import flatten
from saepipe.data.folders import artifact
from saepipe.data.folders.health import Finding, Health
from saepipe.evaluate.results.result_file import read
from saepipe.train.formats import saelens
from saepipe.train.health.twins import Twin
from saepipe.train.rundir import folder
from saepipe.train.rundir.load import Run

MADE = ("metric_version", "mode", "activations", "config", "model_work")
"""What the saepipe block of a result says of how it was made; the model stands among the fingerprints."""

Pair = tuple[int, int | None]
"""What a run shares with its partner: the seed of its initialisation, and that of the order of the data."""


@dataclass(frozen=True)
class Cell:
    """A figure of the table; without a value it was not measured, or has none."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    """The 95 % interval of evaluation noise: over documents, examples, words."""
    difference: float | None = None
    """From the baseline."""
    why: str | None = None
    """The reason for there being no value."""

    def __str__(self) -> str:
        if self.value is None:
            return "undefined" if self.why else "not measured"
        text = f"{self.value:.4g}"
        if self.low is not None and self.high is not None:
            text += f" ±{(self.high - self.low) / 2:.1g}"
        return text if self.difference is None else f"{text} ({self.difference:+.3g})"


@dataclass(frozen=True)
class Row:
    """A run, or the mean of a variant's seeds."""

    label: str
    run: Run
    settings: Mapping[str, Any]
    """The config's leaves."""
    cells: Mapping[str, Cell]
    """By metric key; those that were measured."""
    findings: tuple[Finding, ...]
    """Of the run's health and of its evaluations."""
    evidence: Mapping[str, Any]
    made: Mapping[str, Mapping[str, Any]]
    """How each evaluation was made: equal where figures compare."""
    parts: Mapping[str, Mapping[str, float]]
    """By metric key, what it is the mean of, where that depends on the SAE."""
    heldout: tuple[str, int] | None = None
    """The cache and how many of its held-out tokens were used."""
    warnings: tuple[str, ...] = ()
    """What keeps its figures from showing anything."""

    @property
    def pair(self) -> Pair:
        return self.run.seed, self.run.data_seed

    @property
    def variant(self) -> str:
        return self.label.rpartition("/")[0]

    def value(self, key: str) -> float | None:
        return self.cells.get(key, Cell()).value

    @property
    def twin(self) -> Twin:
        config = {**self.run.config.identity(), "cache": self.run.cache_fingerprint}
        return Twin(self.label, config, self.evidence)

    @property
    def commit(self) -> str | None:
        """Of saepipe, when it was trained."""
        return artifact.read_manifest(self.run.path)[0].get("provenance", {}).get("commit")


def side_by_side(ours: Row, theirs: Row, key: str) -> tuple[float | None, float | None]:
    """A figure of two runs. Means over what could be measured of each are taken over what could be of both."""
    mine, its = ours.parts.get(key), theirs.parts.get(key)
    if mine is None or its is None or mine.keys() == its.keys():
        return ours.value(key), theirs.value(key)
    common = [part for part in mine if part in its]
    if not common:
        return None, None
    return fmean(mine[part] for part in common), fmean(its[part] for part in common)


def row_of(run: Run) -> Row:
    """Reads `health.json` and `eval/*.json`; figures that are not of this run are left out, and told."""
    health = Health.read(run.path)
    cells: dict[str, Cell] = {}
    made: dict[str, Mapping[str, Any]] = {}
    parts: dict[str, Mapping[str, float]] = {}
    heldout = None
    warnings: list[str] = []
    findings = list(health.findings)
    for path in sorted((run.path / "eval").glob("*.json")):
        result = read(path)
        ours = result["saepipe"]
        if found := check_result(result, run, path.name):
            findings += found
            continue
        cells |= dict(_figures(result))
        made[path.stem] = {key: ours.get(key) for key in MADE} | {"model": ours["fingerprints"]["model"]}
        parts |= ours.get("parts", {})
        findings += [Finding(**finding) for finding in ours.get("findings", ())]
        warnings += ours["warnings"]
        if result["eval_type_id"] == "core":
            heldout = (ours["fingerprints"]["cache"], ours["counts"]["tokens"])
    settings = dict(flatten(run.settings))
    label = f"{run.variant}/seed-{run.seed}"
    return Row(label, run, settings, cells, tuple(findings), health.evidence, made, parts, heldout, tuple(warnings))


def told(paths: Iterable[Path]) -> Iterator[str]:
    """What the results themselves say against their figures, a line each: findings, then warnings."""
    for path in paths:
        ours = read(path)["saepipe"]
        yield from (f"{path}: {Finding(**finding)}" for finding in ours["findings"])
        yield from (f"{path}: {warning}" for warning in ours["warnings"])


def check_result(result: Mapping[str, Any], run: Run, name: str) -> list[Finding]:
    """H11: the evaluation is of the run that lies here now. H12: at its hook, on its cache, of its shape."""
    ours, again = result["saepipe"], "its figures are left out; evaluate again"
    if ours["fingerprints"]["run"] != run.fingerprint:
        message = f"{name} is of a run that lay here before ({ours['fingerprints']['run'][:8]}): {again}"
        return [Finding("H11", "error", message)]
    cfg = json.loads((run.path / folder.SAE / saelens.CONFIG).read_text())
    keys = ("architecture", "d_in", "d_sae")
    expected = {"hook": run.hook, "cache": run.cache_fingerprint, **{key: cfg.get(key) for key in keys}}
    found = {"hook": ours["hook"], "cache": ours["fingerprints"]["cache"]}
    found |= {key: result["sae_cfg_dict"].get(key) for key in keys}
    wrong = [f"{key} {found[key]}, not {expected[key]}" for key in expected if found[key] != expected[key]]
    return [Finding("H12", "error", f"{name} was measured at {'; '.join(wrong)}: {again}")] if wrong else []


def _figures(result: Mapping[str, Any]) -> Iterator[tuple[str, Cell]]:
    ours = result["saepipe"]
    for group in (*result["eval_result_metrics"].values(), ours["metrics"]):
        for key, value in group.items():
            low, high = ours["intervals"].get(key, (None, None))
            yield key, Cell(value, low, high, why=ours["undefined"].get(key))
