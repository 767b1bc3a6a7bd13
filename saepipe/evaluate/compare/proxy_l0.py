"""The L0 at which the decoder rows of a sweep overlap least: a proxy of the right L0 (arXiv 2508.16560).

With too low an L0 a latent mixes correlated features, and with too high a one latents find degenerate mixtures; both
raise the mean |cosine| of decoder rows. docs/metrics/geometry.md says how well the minimum finds a known L0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import geometric_mean

from saepipe.data.cache.joint_hooks import hooks_of
from saepipe.data.folders.health import Finding
from saepipe.evaluate.compare.checks import mean_l0
from saepipe.evaluate.compare.difference import SEEDS_FOR_A_VERDICT
from saepipe.evaluate.compare.sweeps import Variant, curves_by_seed, sweeps_of
from saepipe.evaluate.results.run_results import Row
from saepipe.evaluate.stats.l0_curves import Curve

PROXY = "mean_abs_decoder_cosine"
FAR = 1.5
"""Largest ratio of an L0 and the proxy's at which H23 is silent."""


@dataclass(frozen=True)
class ProxyL0:
    """L0 of the minimum in one sweep, or why there is none."""

    name: str
    """`sweep of l1 (5 variants)`"""
    subject: tuple[str, str, int]
    """Cache, hook and d_sae of the sweep; it says nothing of other ones."""
    by_seed: tuple[float, ...] = ()
    """(num_seeds,), ascending; empty if a seed has no minimum inside its L0s"""
    why: str | None = None

    @property
    def middle(self) -> float:
        """Geometric mean over the seeds."""
        return geometric_mean(self.by_seed)

    def is_far_from(self, l0: float) -> bool:
        """Returns whether an L0 is beyond all seeds' estimates by more than the factor `FAR`."""
        return not self.by_seed[0] / FAR <= l0 <= self.by_seed[-1] * FAR

    def __str__(self) -> str:
        if self.why:
            return f"{self.name}: the mean |cosine| of decoder rows shows no right L0: {self.why}"
        num = len(self.by_seed)
        seeds = f" ({self.by_seed[0]:.3g} to {self.by_seed[-1]:.3g} over {num} seeds)" if num > 1 else " (1 seed)"
        return f"{self.name}: decoder rows overlap least at L0 {self.middle:.3g}{seeds}, a proxy of the right L0"


def proxy_l0s(variants: Sequence[Variant]) -> Iterator[ProxyL0]:
    """Yields the proxy's L0 of each sweep of SAEs in which it was measured at enough L0s."""
    for sweep in sweeps_of(variants):
        curves = tuple(curves_by_seed(sweep, needed=PROXY).values())
        if curves and _is_of_saes(sweep[0][0]):
            name = f"sweep of {sweep[0][0].variant} ({len(sweep)} variants)"
            yield _proxy_l0(name, _subject(sweep[0][0]), curves)


def _proxy_l0(name: str, subject: tuple[str, str, int], curves: Sequence[Curve]) -> ProxyL0:
    lowest = [curve.l0_at_lowest(PROXY) for curve in curves]
    inside = sorted(l0 for l0 in lowest if l0 is not None)
    if len(inside) == len(curves):
        return ProxyL0(name, subject, tuple(inside))
    low, high = (pick(curve.span[end] for curve in curves) for end, pick in enumerate((min, max)))
    outside = f"{len(curves) - len(inside)} of {len(curves)} seeds"
    return ProxyL0(name, subject, why=f"it is lowest at an end of L0 {low:.3g} to {high:.3g} in {outside}")


def check_proxy_l0(
    variant: Variant, baseline: Variant, proxies: Sequence[ProxyL0], l0: float | None = None
) -> list[Finding]:
    """Checks H23: both sides are far from the L0 of each sweep of their cache, hook and width that has enough seeds.

    Args:
        variant: runs of one side.
        baseline: runs of the other side.
        proxies: estimates of all sweeps among the compared runs.
        l0: common L0 at which the sides were read; None: their own.
    """
    subjects = {_subject(row) for row in (*variant, *baseline)}
    estimates = [
        proxy for proxy in proxies if len(proxy.by_seed) >= SEEDS_FOR_A_VERDICT and {proxy.subject} == subjects
    ]
    l0s = [mean for side in (variant, baseline) if (mean := l0 or mean_l0(side)) is not None]
    if not estimates or not l0s or not all(proxy.is_far_from(each) for proxy in estimates for each in l0s):
        return []
    at = " and ".join(dict.fromkeys(f"{each:.3g}" for each in l0s))
    found = "; ".join(map(str, estimates))
    message = f"L0 is {at}, off by a factor of more than {FAR:g} in all arms: {found}; compare the arms there as well"
    return [Finding("H23", "warning", message)]


def _is_of_saes(row: Row) -> bool:
    return row.run.target is None and len(hooks_of(row.run.hook)) == 1


def _subject(row: Row) -> tuple[str, str, int]:
    return row.run.cache_fingerprint, row.run.sites, int(row.run.sae_cfg.get("d_sae", 0))
