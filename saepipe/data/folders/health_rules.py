"""The rules of health in one table: id, title, and what each catches. docs/health.md has the exact conditions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """One rule of health. Its id appears in files, the live display, tables and docs."""

    id: str
    title: str
    text: str
    unusable: bool = False
    """An error leaves no usable SAE, so the run is not committed."""

    @property
    def label(self) -> str:
        """`H6 (missing steps)`."""
        return f"{self.id} ({self.title})"


_RULES = (
    Rule("H1", "inert penalty", "A penalty is zero or its gradient too small to matter, or it dominates the loss."),
    Rule("H2", "bit-identical training", "Two runs with different configs log the same losses to the last bit."),
    Rule("H3", "same weights", "Two runs with different configs end with the same decoder."),
    Rule("H4", "unreachable threshold", "A threshold or gate of a penalty can never be passed, or nearly always is."),
    Rule("H5", "gate audit", "A pair penalty selects no pairs, or pairs a latent with itself."),
    Rule("H6", "missing steps", "A run has fewer steps than planned, or none.", unusable=True),
    Rule("H7", "not finite", "A loss, gradient or parameter is NaN or infinite.", unusable=True),
    Rule("H8", "unchanged weights", "Training did not change the encoder or the decoder.", unusable=True),
    Rule("H9", "degenerate SAE", "L0, live latents, explained variance or norms are outside any useful range."),
    Rule("H10", "chance-level probes", "Probes do no better than guessing, so the evaluation shows nothing."),
    Rule("H11", "stale evaluation", "A result belongs to an earlier run in the same folder."),
    Rule("H12", "mismatched evaluation", "A result was measured at another hook, cache or shape."),
    Rule("H13", "different code", "A run, or two runs that are compared, come from different code."),
    Rule("H14", "wrong axis", "Axes are confused: a shape error, or decoder rows off unit norm.", unusable=True),
    Rule("H15", "no gradient", "A penalty with a weight has no gradient for any parameter."),
    Rule("H16", "different data", "Two runs were trained or measured on different data, or measured differently."),
    Rule("H17", "unsupported claim", "A difference is large enough to be claimed, but not established."),
    Rule("H18", "unmatched L0", "Two variants differ in L0 by more than 5 %, so their figures do not compare."),
    Rule("H19", "schedule longer than the run", "A schedule ends after the last step."),
    Rule("H21", "failing component", "An architecture, penalty or transform raises an error.", unusable=True),
    Rule("H22", "matched by a control", "An improvement that a frozen or placebo control of the variant reaches too."),
    Rule(
        "H23", "L0 far from the proxy's", "All arms are far from the L0 at which a sweep's decoder rows overlap least."
    ),
)

RULES = {rule.id: rule for rule in _RULES}
