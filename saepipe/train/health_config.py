"""Thresholds of the health rules, which `health:` in a config overrides."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from saepipe.data.config.base import Config, Count

Share = Annotated[float, Field(ge=0, le=1)]
Least = Annotated[float, Field(ge=0)]


class HealthConfig(Config):
    """Thresholds at which health rules report; docs/health.md lists them by rule. A run's id is independent of them."""

    contract: bool = Field(True, description="refuse plugins that break the contract; false for negative controls")
    inert_share: Least = Field(1e-6, description="H1: gradient over the reconstruction's; inert below")
    inert_checks: Annotated[Count, Field(ge=1)] = Field(4, description="H1: least number of inert log lines in a row")
    inert_span: Share = Field(0.05, description="H1: least fraction of the run that those lines span")
    weak_share: Least = Field(1e-3, description="H1: median of gradient over the reconstruction's; too weak below")
    # At the minimum of an L1 loss the two gradients cancel, so training should end with a share of about 1.
    dominating_share: Least = Field(10.0, description="H1: the same median; too strong above")
    twin_lines: Annotated[Count, Field(ge=1)] = Field(10, description="H2: equal log lines by which two runs are one")
    twin_weights: Least = Field(1e-6, description="H3: |W - W'| / |W|; two decoders are identical below")
    most_selected: Share = Field(0.5, description="H4: share of the pairs that a gate selects; indiscriminate above")
    least_move: Least = Field(1e-3, description="H8: least |after - before| / |before| of W_enc and W_dec")
    heldout_tokens: Annotated[Count, Field(ge=1)] = Field(100_000, description="H9: largest number of tokens to use")
    least_l0: Least = Field(1.0, description="H9: L0; error below")
    most_l0: Share = Field(0.25, description="H9: L0 as a share of d_sae; error above")
    least_alive: Share = Field(0.1, description="H9: share of latents active on those tokens; error below")
    least_variance: float = Field(0.2, description="H9: explained variance; error below")
    most_dead: Share = Field(0.3, description="H9: share of latents dead at the end of training; warning above")
    dense_rate: Share = Field(0.5, description="H9: density above which a latent counts as dense")
    most_dense: Share = Field(0.01, description="H9: share of dense latents; warning above")
    norm_ratio: tuple[float, float] = Field((0.85, 1.1), description="H9: E |x_hat| / |x|; warning outside")
    l0_warning: Least = Field(0.05, description="H9: |l0 - target| / target, if L0 was steered; warning above")
    l0_error: Least = Field(0.25, description="H9: the same deviation; error above")
    unit_tolerance: Least = Field(1e-3, description="H14: largest deviation of a W_dec row from unit norm")
