"""The thresholds of the rules of health: declared here, and changed under `health:` of a config."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from saepipe.data.config.base import Config, Count

Share = Annotated[float, Field(ge=0, le=1)]
Least = Annotated[float, Field(ge=0)]


class HealthConfig(Config):
    """When a rule speaks; docs/health.md has each rule beside its threshold. What a run is does not depend on it."""

    inert_share: Least = Field(1e-6, description="H1: a gradient smaller than this share of the reconstruction's")
    inert_checks: Annotated[Count, Field(ge=1)] = Field(4, description="H1: log lines in a row")
    inert_span: Share = Field(0.05, description="H1: and at least this part of the run")
    weak_share: Least = Field(1e-3, description="H1: gradient over the reconstruction's, median, too weak below")
    # At the minimum of an L1 loss the two gradients cancel, so a share of about 1 is where training should end.
    dominating_share: Least = Field(10.0, description="H1: and too strong above")
    twin_lines: Annotated[Count, Field(ge=1)] = Field(10, description="H2: equal log lines that make two runs one")
    twin_weights: Least = Field(1e-6, description="H3: |W - W'| / |W| below which two decoders are one")
    most_selected: Share = Field(0.5, description="H4: a gate that selects more than this of the pairs selects nothing")
    least_move: Least = Field(1e-3, description="H8: |after - before| / |before| of W_enc and W_dec")
    heldout_tokens: Annotated[Count, Field(ge=1)] = Field(100_000, description="H9: tokens it is judged on, at most")
    least_l0: Least = Field(1.0, description="H9: error below")
    most_l0: Share = Field(0.25, description="H9: error above, as a share of d_sae")
    least_alive: Share = Field(0.1, description="H9: latents that fire on those tokens; error below")
    least_variance: float = Field(0.2, description="H9: explained variance; error below")
    most_dead: Share = Field(0.3, description="H9: dead at the end of training; warning above")
    dense_rate: Share = Field(0.5, description="H9: a latent that fires on more of the tokens is dense")
    most_dense: Share = Field(0.01, description="H9: dense latents; warning above")
    norm_ratio: tuple[float, float] = Field((0.85, 1.1), description="H9: E |x_hat| / |x|; warning outside")
    l0_warning: Least = Field(0.05, description="H9: |l0 - target| / target, where L0 was steered; warning above")
    l0_error: Least = Field(0.25, description="H9: and error above")
    unit_tolerance: Least = Field(1e-3, description="H14: how far a row of W_dec may be from unit norm")
