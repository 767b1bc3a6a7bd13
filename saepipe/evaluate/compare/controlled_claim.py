"""One claim about a variant, tested against one of its controls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from saepipe.data.folders.health import Finding, errors
from saepipe.evaluate.compare.difference import Change
from saepipe.train.control_kinds import Control

Outcome = Literal["holds", "matched", "not settled", "no result"]
"""The claim holds against the control too; or the control reaches as much; or neither; or there is no test."""


@dataclass(frozen=True)
class ControlledClaim:
    """A claim that a variant's figure is better or worse than the baseline's, tested against one of its controls."""

    kind: Control
    control: str
    """Name of the control's variant."""
    claim: Change
    """The variant against the baseline."""
    against_control: Change
    """The variant against the control, on the same figure."""
    of_control: Change
    """The control against the baseline."""

    @property
    def outcome(self) -> Outcome:
        if self.against_control.word == self.claim.word:
            return "holds"
        if self.against_control.word not in ("better", "worse", "within noise"):
            return "no result"
        return "matched" if self.of_control.word == self.claim.word and not self._may_exceed else "not settled"

    @property
    def _may_exceed(self) -> bool:
        """True if the variant may yet differ from the control as claimed, by the effect of interest."""
        paired, interesting = self.against_control.paired, self.claim.interesting
        assert paired is not None
        assert interesting is not None
        low, high = paired.mean.low, paired.mean.high
        if low is None or high is None:
            return True
        return (high if self.claim.difference > 0 else -low) >= interesting

    def __str__(self) -> str:
        claim = f"{self.claim.shown.label} is {self.claim.word} than the baseline's"
        name, word = self._name, self.against_control.word
        if self.outcome == "no result":
            obstacles = (*self.against_control.blocked_by, *errors(self.against_control.findings))
            rules = ", ".join(dict.fromkeys(finding.rule for finding in obstacles))
            return f"{claim}; there is no test against its control {name}: {word}{f' ({rules})' if rules else ''}"
        if self.outcome == "holds":
            return f"{claim}, and than that of its control {name} too {self._numbers}"
        matched = "so is that of" if self.outcome == "matched" else f"is not shown to be {self.claim.word} than that of"
        rule = ", H22" if self._is_unearned else ""
        return f"{claim}, but {matched} its control {name}; against that it is {word} {self._numbers}{rule}"

    @property
    def _name(self) -> str:
        return self.control if self.control == self.kind else f"{self.control} ({self.kind})"

    @property
    def _numbers(self) -> str:
        p = self.against_control.p
        return f"(difference {self.against_control.difference:+.3g}{f', p {p:.2g}' if p is not None else ''})"

    @property
    def _is_unearned(self) -> bool:
        return self.outcome == "matched" and self.claim.word == "better"

    def findings(self) -> Iterator[Finding]:
        """Checks H22: an improvement over the baseline is more than what a control of the variant reaches."""
        if self._is_unearned:
            message = (
                f"{self.claim.shown.label} is better than the baseline's, but so is that of the control "
                f"{self._name}, and the variant's is no better than the control's: do not claim that "
                "the improvement comes from what the control lacks"
            )
            yield Finding("H22", "warning", message, self.claim.key)

    def to_dict(self) -> dict[str, Any]:
        return {
            "key": self.claim.key,
            "control": self.control,
            "kind": self.kind,
            "outcome": self.outcome,
            "text": str(self),
            "against_control": self.against_control.to_dict(),
            "of_control": self.of_control.to_dict(),
        }
