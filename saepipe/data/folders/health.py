"""Findings of the health rules about a run, and `health.json`, which stores them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from saepipe.data.errors import CorruptDataError
from saepipe.data.folders.artifact import write_json
from saepipe.data.folders.health_rules import RULES

FILE = "health.json"

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """A finding of a health rule. An `error` means that the experiment cannot show what it was designed to show."""

    rule: str
    severity: Severity
    message: str
    """The observed value, and a value that would be fine."""
    about: str = ""
    """The penalty, transform or other run concerned, if any."""
    values: tuple[float, ...] = ()
    """Measured numbers in the message, if they are kept apart."""
    pattern: str = ""
    """Message as it holds for other seeds too, with a replacement field per value; empty: it is `message`."""
    evaluation: str = ""
    """Name of the evaluation whose figures alone are affected; empty if all figures of the run are."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))  # JSON has lists

    @classmethod
    def measured(cls, rule: str, severity: Severity, pattern: str, *values: float, about: str = "") -> Finding:
        """Returns a finding whose message is `pattern` with `values`; these are kept apart if all are finite."""
        message = pattern.format(*values)
        if not all(map(math.isfinite, values)):  # JSON has no NaN
            return cls(rule, severity, message, about)
        return cls(rule, severity, message, about, values, pattern)

    def prefixed(self, prefix: str, about: str) -> Finding:
        """Returns the finding with another subject, which is also put before its message."""
        pattern = f"{prefix}{self.pattern}" if self.pattern else ""
        return replace(self, message=f"{prefix}{self.message}", pattern=pattern, about=about)

    def __str__(self) -> str:
        return f"{self.rule} {self.severity} ({RULES[self.rule].title}): {self.message}"


@dataclass(frozen=True)
class Health:
    """Contents of `health.json`."""

    findings: tuple[Finding, ...] = ()
    audit: Mapping[str, Any] = field(default_factory=dict)
    """Measurements that the rules used: statistics of each gate, and the behaviour of the finished SAE."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """Data for comparisons with other runs."""

    def write(self, folder: Path) -> None:
        write_json(folder / FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Health:
        """Reads it from a run's folder; raises CorruptDataError if the file is missing or malformed."""
        try:
            plain = json.loads((folder / FILE).read_text())
            findings = tuple(Finding(**finding) for finding in plain.pop("findings"))
            return cls(findings, **plain)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CorruptDataError(f"{folder / FILE} is missing or malformed: {error}", hint="train it again") from None


def errors(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity == "error"]


def unusable(findings: Iterable[Finding]) -> list[Finding]:
    """Errors that leave no usable SAE."""
    return [finding for finding in errors(findings) if RULES[finding.rule].unusable]
