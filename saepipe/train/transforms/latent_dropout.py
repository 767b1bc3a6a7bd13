"""Latents dropped at random before the decoder, so that no latent is relied on alone."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from saepipe.train.seeds import generator
from saepipe.train.setting import Setting, SettingsNow, within
from saepipe.train.transforms.base import Codes, State, Transform, Transformed


class LatentDropout(Transform):
    """acts_i -> 0 with probability p_i at each token, else acts_i / (1 - p_i): unchanged on average.

    Study B computed a mask after x_hat, where it did nothing. A latent's age is the tokens since it last fired over the
    tokens that it lets pass between firings, a running mean: below 1 it is busy, above 1 it is overdue.

        drop: all       p_i = rate
        drop: busy      p_i = rate / (1 + age_i): what fires all the time makes room for the others
        drop: overdue   p_i = rate age_i / (1 + age_i): what has fallen silent is not relied on
    """

    name: Literal["latent_dropout"] = "latent_dropout"
    statistics: ClassVar = {"dropped_share": (0.0, 1.0), "overdue_share": (0.0, 1.0), "interval": (1.0, float("inf"))}
    rate: Annotated[Setting, within(0, 0.95)] = 0.1
    drop: Literal["all", "busy", "overdue"] = "all"
    decay: Annotated[float, Field(ge=0, lt=1, description="of the running mean of firing rates, a step")] = 0.99

    def init_state(self, d_in: int, d_sae: int) -> State:
        return {
            "tokens_since_fired": torch.zeros(d_sae, dtype=torch.int64),
            "fired": torch.zeros(d_sae),
            "seen": torch.zeros(()),
        }

    def __call__(self, codes: Codes, state: State, now: SettingsNow) -> Transformed:
        age, interval = self._ages(state)
        p = now["rate"] * {"all": torch.ones_like(age), "busy": 1 / (1 + age), "overdue": age / (1 + age)}[self.drop]
        kept = draw(codes) >= p
        acts = codes.acts * (kept / (1 - p)).to(codes.acts.dtype)
        active = codes.acts > 0
        statistics = {
            "dropped_share": (active & ~kept).sum() / active.sum().clamp_min(1),
            "overdue_share": (age > 1).sum() / len(age),
            "interval": interval.median(),
        }
        return Transformed(acts, statistics, self._lived(state, active))

    def _ages(self, state: State) -> tuple[Tensor, Tensor]:
        """Each latent's age and the tokens between its firings, (d_sae,) both; never fired counts as once a window."""
        once = 1 - self.decay
        interval = (state["seen"] + once) / (state["fired"] + once)
        return state["tokens_since_fired"] / interval, interval

    def _lived(self, state: State, active: Tensor) -> State:
        """The state after a batch in which `active` (batch, d_sae) latents fired."""
        fired, seen = active.sum(0).to(state["fired"].dtype), torch.full_like(state["seen"], len(active))
        return {
            "tokens_since_fired": (state["tokens_since_fired"] + len(active)).masked_fill(fired > 0, 0),
            "fired": state["fired"].lerp(fired, 1 - self.decay),
            "seen": state["seen"].lerp(seen, 1 - self.decay),
        }


def draw(codes: Codes) -> Tensor:
    """(batch, d_sae) uniform numbers in [0, 1): (u_i + v_b) mod 1, with u and v drawn from the run's seed and the step.

    Those of one token are independent of each other, and so are any two others; and batch + d_sae numbers are drawn,
    on the CPU, so that a seed means the same on every device.
    """
    batch, d_sae = codes.acts.shape
    drawn = torch.rand(batch + d_sae, generator=generator(codes.seed, "latent_dropout", codes.step))
    u, v = drawn[:d_sae], drawn[d_sae:]
    return (u.to(codes.acts.device) + v.to(codes.acts.device).unsqueeze(1)).frac()
