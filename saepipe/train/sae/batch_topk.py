"""BatchTopK: k active latents per token on average over a batch (Bussmann et al. 2024, arXiv 2412.06410)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from saepipe.train.kernels.pattern import Pattern
from saepipe.train.sae.base import Architecture, Params
from saepipe.train.sae.jumprelu import JumpReLU

LIKELY = 0.9
"""Share of the running threshold above which all of a batch's kept pre-activations are likely to be."""


class BatchTopK(Architecture):
    """In training, acts = max(pre_acts, 0) at the k * batch largest of a batch, 0 elsewhere; k may be fractional.

    At inference tokens are independent: acts = pre_acts where they exceed one threshold for all latents, 0 elsewhere.
    This is a JumpReLU, and it is saved as one. The threshold is a running mean over steps of the smallest activation
    that the batch kept. It starts at the value of the first batch (0 means that there was none yet), so it needs no
    bias correction, and its window of 1 / (1 - threshold_decay) steps is short compared with a run.
    """

    name: Literal["batch_topk"] = "batch_topk"
    buffers: ClassVar[frozenset[str]] = frozenset({"threshold"})
    sparse: ClassVar[bool] = True
    k: Annotated[float, Field(gt=0)]
    threshold_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99

    @model_validator(mode="after")
    def _k_fits(self) -> Self:
        if self.k > self.d_sae:
            raise ValueError(f"k = {self.k:g} is more than d_sae = {self.d_sae}")
        return self

    @property
    def num_active(self) -> float:
        return self.k

    def init(self, d_in: int, encoder_scale: float, generator: torch.Generator) -> Params:
        return {**super().init(d_in, encoder_scale, generator), "threshold": torch.zeros(())}

    def activate(self, params: Params, pre_acts: Tensor) -> Tensor:
        return pre_acts.relu() * (pre_acts > params["threshold"])

    def activate_training(self, params: Params, pre_acts: Tensor) -> Tensor:
        flat = pre_acts.relu().flatten()
        values, indices = flat.topk(self._num_kept(len(pre_acts)), sorted=False)
        return torch.zeros_like(flat).scatter(0, indices, values).view_as(pre_acts)

    def pattern(self, params: Params, pre_acts: Tensor) -> Pattern:
        flat, num_kept = pre_acts.flatten(), self._num_kept(len(pre_acts))
        kept = self._kept_if_likely(params, flat, num_kept)
        if kept is None:
            kept = flat.topk(num_kept, sorted=False).indices
        return Pattern.of_positions(kept.sort().values, len(pre_acts), self.d_sae)

    def _kept_if_likely(self, params: Params, flat: Tensor, num_kept: int) -> Tensor | None:
        """Returns the largest of all pre-activations if they are near the running threshold or above, on a CPU.

        Elsewhere the number of likely ones would have to be waited for. In bfloat16 many are equal, and which of those
        are kept would depend on the way they are found.
        """
        if flat.device.type != "cpu" or flat.dtype == torch.bfloat16:
            return None
        return largest_above(flat, num_kept, LIKELY * float(params["threshold"]))

    def activate_at(self, params: Params, pre_acts: Tensor, latents: Tensor) -> Tensor:
        return pre_acts.relu()

    def _num_kept(self, batch: int) -> int:
        return max(1, round(self.k * batch))

    def threshold(self, params: Params) -> Tensor:
        return params["threshold"].expand(self.d_sae)

    def observe(self, params: Params, acts: Tensor) -> Mapping[str, Tensor]:
        before = params["threshold"]
        smallest = torch.where(acts > 0, acts, torch.inf).min().to(before.dtype)
        after = torch.where(before > 0, before.lerp(smallest, 1 - self.threshold_decay), smallest)
        return {"threshold": torch.where(smallest.isfinite(), after, before)}

    def inference(self, params: Params) -> tuple[Architecture, Params]:
        return JumpReLU(d_sae=self.d_sae), {**params, "threshold": self.threshold(params)}

    def unscaled(self, params: Params, scale: float) -> Params:
        return {**super().unscaled(params, scale), "threshold": params["threshold"] / scale}


def largest_above(values: Tensor, k: int, bound: float) -> Tensor | None:
    """Returns the indices of the k largest values (num,), in any order; None unless k of them exceed `bound`.

    Only those above the bound are compared with each other, which costs much less than looking at all.
    """
    above = (values > bound).nonzero().squeeze(1)
    return above[values[above].topk(k, sorted=False).indices] if len(above) >= k else None
