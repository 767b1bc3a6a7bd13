"""What the rules of health have to say about a run, and `health.json`, where it rests.

Every rule has an id that stands in the file, in the live display, in tables and in docs/health.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from saepipe.data.errors import CorruptDataError
from saepipe.data.folders.artifact import write_json

FILE = "health.json"

RULES = {
    "H1": "inert penalty",
    "H2": "bit-identical training",
    "H3": "same weights",
    "H4": "unreachable threshold",
    "H5": "gate audit",
    "H6": "missing steps",
    "H7": "not finite",
    "H8": "nothing moved",
    "H9": "degenerate SAE",
    "H10": "chance-level probes",
    "H11": "stale evaluation",
    "H12": "evaluation of something else",
    "H13": "other source",
    "H14": "wrong axis",
    "H15": "no gradient",
    "H16": "not the same data",
    "H17": "claim that intervals do not carry",
    "H18": "unmatched L0",
    "H19": "schedule longer than the run",
}
"""What each rule catches, in a few words."""

UNUSABLE = frozenset({"H6", "H7", "H8", "H14"})
"""An error of these leaves no SAE that could be used: the run is not committed."""

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """What a rule has to say. An `error` means that the experiment cannot have shown what it was made to show."""

    rule: str
    severity: Severity
    message: str
    """The value seen, and what would do."""
    about: str = ""
    """The penalty, transform or other run that it is about, where it is about one."""

    def __str__(self) -> str:
        return f"{self.rule} {self.severity} ({RULES[self.rule]}): {self.message}"


@dataclass(frozen=True)
class Health:
    """`health.json`."""

    findings: tuple[Finding, ...] = ()
    audit: Mapping[str, Any] = field(default_factory=dict)
    """What was looked at: the statistics of each gate, and how the finished SAE behaves."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """What other runs are compared with."""

    def write(self, folder: Path) -> None:
        write_json(folder / FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Health:
        """Of a run's folder; raises CorruptDataError if the file is missing or not one of ours."""
        try:
            plain = json.loads((folder / FILE).read_text())
            findings = tuple(Finding(**finding) for finding in plain.pop("findings"))
            return cls(findings, **plain)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CorruptDataError(f"{folder / FILE} is no health of a run: {error}", hint="train it again") from None


def errors(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity == "error"]


def unusable(findings: Iterable[Finding]) -> list[Finding]:
    """The errors that leave no SAE that could be used."""
    return [finding for finding in errors(findings) if finding.rule in UNUSABLE]
