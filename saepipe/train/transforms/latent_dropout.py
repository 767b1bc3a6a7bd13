"""Random dropout of latents before the decoder, so that the reconstruction relies on no single latent."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from saepipe.train.sae.base import is_active
from saepipe.train.seeds import generator
from saepipe.train.setting import Setting, SettingsNow, within
from saepipe.train.transforms.base import Codes, State, Transform, Transformed


class LatentDropout(Transform):
    """acts_i -> 0 with probability p_i at each token, else acts_i / (1 - p_i): unchanged on average.

    Study B computed its mask after x_hat, where it had no effect. A latent's age is the number of tokens since it was
    last active, divided by a running mean of its interval between activations: below 1 it is busy, above 1 overdue.

        drop: all       p_i = rate
        drop: busy      p_i = rate / (1 + age_i): latents that are always active make room for the others
        drop: overdue   p_i = rate age_i / (1 + age_i): latents that have gone silent are not relied on
    """

    name: Literal["latent_dropout"] = "latent_dropout"
    keeps_zeros: ClassVar = True
    statistics: ClassVar = {"dropped_share": (0.0, 1.0), "overdue_share": (0.0, 1.0), "interval": (1.0, float("inf"))}
    rate: Annotated[Setting, within(0, 0.95)] = 0.1
    drop: Literal["all", "busy", "overdue"] = "all"
    decay: Annotated[float, Field(ge=0, lt=1, description="of the running mean of densities, per step")] = 0.99

    def init_state(self, d_in: int, d_sae: int) -> State:
        return {
            "tokens_since_fired": torch.zeros(d_sae, dtype=torch.int64),
            "fired": torch.zeros(d_sae),
            "seen": torch.zeros(()),
        }

    def __call__(self, codes: Codes, state: State, now: SettingsNow) -> Transformed:
        age, interval = self._ages(state)
        p = now["rate"] * {"all": torch.ones_like(age), "busy": 1 / (1 + age), "overdue": age / (1 + age)}[self.drop]
        kept = uniform_numbers(codes) >= p
        acts = codes.acts * (kept / (1 - p)).to(codes.acts.dtype)
        active = is_active(codes.acts)
        statistics = {
            "dropped_share": (active & ~kept).sum() / active.sum().clamp_min(1),
            "overdue_share": (age > 1).sum() / len(age),
            "interval": interval.median(),
        }
        return Transformed(acts, statistics, self._next_state(state, active))

    def _ages(self, state: State) -> tuple[Tensor, Tensor]:
        """Returns each latent's age, and interval in tokens, (d_sae,) each; never active counts as once per window."""
        once = 1 - self.decay
        interval = (state["seen"] + once) / (state["fired"] + once)
        return state["tokens_since_fired"] / interval, interval

    def _next_state(self, state: State, active: Tensor) -> State:
        """Returns the state after a batch in which the entries `active` (batch, d_sae) were active."""
        num_active, seen = active.sum(0).to(state["fired"].dtype), torch.full_like(state["seen"], len(active))
        return {
            "tokens_since_fired": (state["tokens_since_fired"] + len(active)).masked_fill(num_active > 0, 0),
            "fired": state["fired"].lerp(num_active, 1 - self.decay),
            "seen": state["seen"].lerp(seen, 1 - self.decay),
        }


def uniform_numbers(codes: Codes) -> Tensor:
    """Returns numbers (batch, d_sae), uniform in [0, 1): (u_i + v_b) mod 1, with u and v sampled by seed and step.

    The numbers of one token are independent of each other, and so are any two others. Only batch + d_sae numbers are
    sampled, on the CPU, so that a seed means the same on every device.
    """
    batch, d_sae = codes.acts.shape
    sample = torch.rand(batch + d_sae, generator=generator(codes.seed, "latent_dropout", codes.step))
    u, v = sample[:d_sae], sample[d_sae:]
    return (u.to(codes.acts.device) + v.to(codes.acts.device).unsqueeze(1)).frac()
