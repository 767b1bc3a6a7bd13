"""Results in the folder of one run: its health, and its evaluations, each checked to be of this very run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from saepipe.data.config.base import flatten
from saepipe.data.folders import artifact
from saepipe.data.folders.health import Finding, Health
from saepipe.data.folders.sealed_result import is_sealed
from saepipe.evaluate.results.result_file import read
from saepipe.train.health.twins import Twin
from saepipe.train.rundir.finished_run import Run

PROTOCOL = ("metric_version", "mode", "activations", "config", "model_work", "num_seeds")
"""Keys of a result's saepipe block that say how it was measured; the model is among the fingerprints."""

Pair = tuple[int, int | None]
"""Seeds that the runs of a pair share: of the initialisation and of the order of the data."""


@dataclass(frozen=True)
class Cell:
    """Value of a figure in the table; None if it was not measured or is undefined."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    """Ends of the 95 % interval of evaluation noise: over documents, examples or words."""
    difference: float | None = None
    """Difference from the baseline."""
    why: str | None = None
    """Reason why the figure is undefined."""

    def __str__(self) -> str:
        if self.value is None:
            return "undefined" if self.why else "not measured"
        text = f"{self.value:.4g}"
        if self.low is not None and self.high is not None:
            text += f" ±{(self.high - self.low) / 2:.1g}"
        return text if self.difference is None else f"{text} ({self.difference:+.3g})"


@dataclass(frozen=True)
class Row:
    """A run, or the mean over a variant's seeds."""

    label: str
    run: Run
    settings: Mapping[str, Any]
    """Leaves of the config, by dotted key."""
    cells: Mapping[str, Cell]
    """Measured figures, by key."""
    findings: tuple[Finding, ...]
    """Findings of the run's health and of its evaluations."""
    evidence: Mapping[str, Any]
    evaluations: Mapping[str, str]
    """Name of the evaluation that measured each figure, by figure key."""
    protocols: Mapping[str, Mapping[str, Any]]
    """Protocol of each evaluation; figures are comparable if the protocols are equal."""
    parts: Mapping[str, Mapping[str, float]]
    """Values by part (such as letter) of each figure that is a mean over the parts that can be measured."""
    heldout: tuple[str, int] | None = None
    """Fingerprint of the cache, and number of its held-out tokens that were used."""
    warnings: tuple[str, ...] = ()
    """Warnings that make its figures uninformative."""
    unchecked: tuple[str, ...] = ()
    """Names of the results of earlier versions, which have no digest to check them by."""

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
        config = {**self.run.settings, "cache": self.run.cache_fingerprint}
        return Twin(self.label, config, self.evidence)

    @property
    def commit(self) -> str | None:
        """Commit of saepipe that trained the run."""
        return artifact.read_manifest(self.run.path)[0].get("provenance", {}).get("commit")


def comparable_values(row: Row, other: Row, key: str) -> tuple[float | None, float | None]:
    """Returns a figure of two runs; a mean over measurable parts is taken over the parts that both have."""
    ours, theirs = row.parts.get(key), other.parts.get(key)
    if ours is None or theirs is None or ours.keys() == theirs.keys():
        return row.value(key), other.value(key)
    common = [part for part in ours if part in theirs]
    if not common:
        return None, None
    return fmean(ours[part] for part in common), fmean(theirs[part] for part in common)


def read_row(run: Run, results: Path | None = None) -> Row:
    """Reads `health.json` and the results; leaves out results that are not of this run, with a finding for each.

    Args:
        run: a finished run.
        results: folder of its results; default: `RUN/eval`.
    """
    health = Health.read(run.path)
    cells: dict[str, Cell] = {}
    evaluations: dict[str, str] = {}
    protocols: dict[str, Mapping[str, Any]] = {}
    parts: dict[str, Mapping[str, float]] = {}
    heldout = None
    warnings: list[str] = []
    unchecked: list[str] = []
    findings = list(health.findings)
    for path in sorted((results or run.path / "eval").glob("*.json")):
        result = read(path)
        ours = result["saepipe"]
        if mismatches := check_result(result, run, path.name):
            findings += mismatches
            continue
        measured = dict(_figures(result))
        cells |= measured
        evaluations |= dict.fromkeys(measured, path.stem)
        protocols[path.stem] = {key: ours.get(key) for key in PROTOCOL} | {"model": ours["fingerprints"]["model"]}
        parts |= ours.get("parts", {})
        findings += [Finding(**{**finding, "evaluation": path.stem}) for finding in ours.get("findings", ())]
        warnings += ours["warnings"]
        unchecked += [] if is_sealed(result) else [path.name]
        if result["eval_type_id"] == "core":
            heldout = (ours["fingerprints"]["cache"], ours["counts"]["tokens"])
    settings = dict(flatten(run.settings))
    name = f"{run.variant}/seed-{run.seed}"
    return Row(
        name,
        run,
        settings,
        cells,
        tuple(findings),
        health.evidence,
        evaluations,
        protocols,
        parts,
        heldout,
        tuple(warnings),
        tuple(unchecked),
    )


def read_metrics(run: Run) -> dict[str, dict[str, Cell]]:
    """Reads the figures of `eval/*.json`, by metric and key; leaves out results that are not of this run."""
    results = {path.stem: read(path) for path in sorted((run.path / "eval").glob("*.json"))}
    return {name: dict(_figures(result)) for name, result in results.items() if not check_result(result, run, name)}


def check_result(result: Mapping[str, Any], run: Run, name: str) -> list[Finding]:
    """Checks that a result is of this very run (H11), and has its hook, cache and shape (H12)."""
    ours, consequence = result["saepipe"], "its figures are left out; evaluate again"
    if ours["fingerprints"]["run"] != run.fingerprint:
        message = f"{name} is of an earlier run in this folder ({ours['fingerprints']['run'][:8]}): {consequence}"
        return [Finding("H11", "error", message, evaluation=Path(name).stem)]
    cfg = run.sae_cfg
    keys = ("architecture", "d_in", "d_sae")
    expected = {"hook": run.hook, "cache": run.cache_fingerprint, **{key: cfg.get(key) for key in keys}}
    actual = {"hook": ours["hook"], "cache": ours["fingerprints"]["cache"]}
    actual |= {key: result["sae_cfg_dict"].get(key) for key in keys}
    wrong = [f"{key} {actual[key]}, not {expected[key]}" for key in expected if actual[key] != expected[key]]
    message = f"{name} was measured at {'; '.join(wrong)}: {consequence}"
    return [Finding("H12", "error", message, evaluation=Path(name).stem)] if wrong else []


def _figures(result: Mapping[str, Any]) -> Iterator[tuple[str, Cell]]:
    ours = result["saepipe"]
    for group in (*result["eval_result_metrics"].values(), ours["metrics"]):
        for key, value in group.items():
            low, high = ours["intervals"].get(key, (None, None))
            yield key, Cell(value, low, high, why=ours["undefined"].get(key))
