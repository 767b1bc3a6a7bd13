"""Penalties of both studies exactly as coded, with their faults: negative controls for configs/study-*.yaml.

None of them is meant to work. docs/health.md says which rule finds which fault.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from saepipe.train.penalties.base import ANY, SHARE, Penalised, Penalty, State, StepContext
from saepipe.train.setting import Setting, SettingsNow, within


class AbsorptionAsCoded(Penalty):
    """Study A: sum over all i, j of (R_ij > rho) (R_ij - rho) G_ij, if any cosine exceeds tau.

    G is the Gram matrix of W_dec's columns, (d_in, d_in): cosines of input coordinates, not of latents, all so small
    that the condition is never met. R (d_sae, d_sae) is a count over a density. They fit only if d_in = d_sae.
    """

    name: Literal["absorption_as_coded"] = "absorption_as_coded"
    rho: float = 5
    tau: float = 0.8

    def init_state(self, d_in: int, d_sae: int) -> State:
        return {"rate": torch.zeros(d_sae), "together": torch.zeros(d_sae, d_sae)}

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        active = (ctx.acts > 0).float()
        rate = 0.99 * state["rate"] + 0.01 * active.mean(0)
        together = 0.99 * state["together"] + 0.01 * active.T @ active
        state = {"rate": rate, "together": together}
        columns = normalize(ctx.W_dec, dim=0)
        gram = columns.T @ columns
        high = gram - torch.diag(gram.diagonal()) > self.tau
        if not high.any() or (rate > 1e-3).sum() <= 1:
            return Penalised(ctx.x.new_zeros(()), {}, state)
        ratio = together / (rate.unsqueeze(1) + 1e-6)
        return Penalised(((ratio > self.rho) * (ratio - self.rho) * gram).sum(), {}, state)


class TokenTopKAsCoded(Penalty):
    """Study B, runs 1 to 4: mean of the largest cosines between two tokens' activations, self-pairs included.

    Their number is a share of batch * d_sae, though there are batch * batch cosines; W_dec gets no gradient.
    """

    name: Literal["token_topk_as_coded"] = "token_topk_as_coded"
    statistics: ClassVar = {"num_pairs": ANY, "self_share": SHARE}
    fraction: Annotated[Setting, within(0, 1)] = 0.001

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        cosines = token_cosines(ctx.acts)
        size = min(max(1, int(float(now["fraction"]) * ctx.acts.numel())), cosines.numel())
        largest, indices = cosines.flatten().topk(size)
        self_share = (indices // len(cosines) == indices % len(cosines)).float().mean()
        return Penalised(largest.mean(), {"num_pairs": torch.tensor(float(size)), "self_share": self_share}, state)


class TokenOrthogonalityAsCoded(Penalty):
    """Study B, run 5: mean of all squared cosines between two tokens' activations, self-pairs included."""

    name: Literal["token_orthogonality_as_coded"] = "token_orthogonality_as_coded"
    statistics: ClassVar = {"num_pairs": ANY, "self_share": SHARE}

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        cosines = token_cosines(ctx.acts)
        statistics = {
            "num_pairs": torch.tensor(float(cosines.numel())),
            "self_share": torch.tensor(1 / len(cosines)),
        }
        return Penalised(cosines.square().mean(), statistics, state)


class L0AsCoded(Penalty):
    """Study B, runs 6 and 7: share of activations above 0.01, a count that has no slope.

    `after` names what they did to the activations after x_hat was computed: dropout, or keeping only the latents whose
    mean is above the median. It changes this count and nothing else.
    """

    name: Literal["l0_as_coded"] = "l0_as_coded"
    draws: ClassVar[bool] = True
    after: Literal["dropout", "competition"] = "dropout"
    rate: Annotated[float, Field(ge=0, lt=1)] = 0.1

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        mean = ctx.acts.mean(0)
        assert ctx.uniform is not None
        kept = ctx.uniform >= self.rate if self.after == "dropout" else mean > mean.median()
        return Penalised(((ctx.acts * kept) > 0.01).float().mean(), {}, state)


class ImportanceVarianceAsCoded(Penalty):
    """Study B, run 6: minus the variance over latents of their mean activation, minimised by a few giant latents."""

    name: Literal["importance_variance_as_coded"] = "importance_variance_as_coded"

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        return Penalised(-ctx.acts.float().mean(0).var(), {}, state)


def token_cosines(acts: Tensor) -> Tensor:
    """(batch, d_sae) -> (batch, batch), ones on the diagonal."""
    codes = normalize(acts.float(), dim=1)
    return codes @ codes.T
