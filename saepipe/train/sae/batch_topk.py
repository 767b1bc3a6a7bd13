"""BatchTopK: k active latents per token on average over a batch (Bussmann et al. 2024, arXiv 2412.06410)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from saepipe.train.kernels.pattern import Pattern
from saepipe.train.sae.active_count import MeanK, check_k, k_now, last_k
from saepipe.train.sae.base import Architecture, Params
from saepipe.train.sae.jumprelu import JumpReLU
from saepipe.train.sae.rivals import Rivals

LIKELY = 0.9
"""Share of the expected threshold above which all of a batch's kept pre-activations are likely to be."""

MORE = 1.25
"""The expected threshold lets through this many times the entries that are kept, since a few tokens may differ from the
rest of a batch."""


class BatchTopK(Architecture):
    """In training, acts = max(pre_acts, 0) at the k * batch largest of a batch, 0 elsewhere; k may be fractional, and
    may follow a schedule.

    At inference tokens are independent: acts = pre_acts where they exceed one threshold for all latents, 0 elsewhere.
    This is a JumpReLU, and it is saved as one. The threshold is a running mean over steps of the smallest activation
    that the batch kept. It starts at the value of the first batch (0 means that there was none yet), so it needs no
    bias correction, and its window of 1 / (1 - threshold_decay) steps is short compared with a run.
    """

    name: Literal["batch_topk"] = "batch_topk"
    dense_arrays: ClassVar[float] = 5
    buffers: ClassVar[frozenset[str]] = frozenset({"threshold"})
    sparse: ClassVar[bool] = True
    in_pieces: ClassVar[bool] = True
    k: MeanK
    threshold_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99

    @model_validator(mode="after")
    def _k_fits(self) -> Self:
        check_k(self.k, self.d_sae, whole=False)
        return self

    @property
    def num_active(self) -> float:
        return last_k(self.k)

    def init(self, d_in: int, encoder_scale: float, generator: torch.Generator) -> Params:
        return {**super().init(d_in, encoder_scale, generator), "threshold": torch.zeros(())}

    def activate(self, params: Params, pre_acts: Tensor) -> Tensor:
        return pre_acts.relu() * (pre_acts > params["threshold"])

    def activate_training(self, params: Params, pre_acts: Tensor) -> Tensor:
        flat = pre_acts.relu().flatten()
        values, indices = flat.topk(self._num_kept(len(pre_acts)), sorted=False)
        return torch.zeros_like(flat).scatter(0, indices, values).view_as(pre_acts)

    def part(self, latents: range) -> Self:
        return self.model_copy(update={"d_sae": len(latents)})

    def activate_part(self, params: Params, pre_acts: Tensor, rivals: Rivals) -> Tensor:
        flat = pre_acts.relu().flatten()
        values, indices = rivals.largest(flat, self._num_kept(rivals.batch))
        return torch.zeros_like(flat).scatter(0, indices, values).view_as(pre_acts)

    def pattern(self, params: Params, pre_acts: Tensor) -> Pattern:
        flat, num_kept = pre_acts.flatten(), self._num_kept(len(pre_acts))
        kept = flat.topk(num_kept, sorted=False).indices
        return Pattern.of_positions(kept.sort().values, len(pre_acts), self.d_sae)

    def floor(self, params: Params, upper: Tensor, spread: Tensor) -> Tensor | None:
        threshold = params["threshold"]
        return LIKELY * threshold if float(threshold) > 0 else None

    def expecting(self, params: Params, pre_acts: Tensor) -> Params:
        """Lowers the threshold to that of the tokens at hand: early in a run it falls faster than its running mean."""
        num_above = min(round(MORE * k_now(self.k) * len(pre_acts)), pre_acts.numel() - 1)
        smallest = pre_acts.flatten().kthvalue(pre_acts.numel() - num_above).values
        return {**params, "threshold": torch.minimum(params["threshold"], smallest)}

    def candidates(self, params: Params, pre_acts: Tensor) -> Pattern | None:
        """Returns the entries near the expected threshold or above, which are few compared with all.

        None in bfloat16, where many are equal, and which of those are kept would depend on how they are found.
        """
        threshold = float(params["threshold"])
        if threshold <= 0 or pre_acts.dtype == torch.bfloat16:
            return None
        return Pattern.of_mask(pre_acts > LIKELY * threshold)

    def among(self, params: Params, entries: Pattern, pre_acts: Tensor) -> Tensor:
        return pre_acts > LIKELY * params["threshold"]

    def chosen(self, candidates: Pattern, pre_acts: Tensor) -> tuple[Pattern, Tensor] | None:
        num_kept = self._num_kept(candidates.num_rows)
        if candidates.num_entries < num_kept:
            return None
        kept = pre_acts.topk(num_kept, sorted=False).indices.sort().values
        return Pattern.of_positions(candidates.positions[kept], candidates.num_rows, self.d_sae), pre_acts[kept]

    def activate_at(self, params: Params, pre_acts: Tensor, latents: Tensor) -> Tensor:
        return pre_acts.relu()

    def _num_kept(self, batch: int) -> int:
        return max(1, round(k_now(self.k) * batch))

    def threshold(self, params: Params) -> Tensor:
        return params["threshold"].expand(self.d_sae)

    def observe(self, params: Params, acts: Tensor) -> Mapping[str, Tensor]:
        return self._observed(params["threshold"], smallest_active(acts))

    def observe_part(self, params: Params, acts: Tensor, rivals: Rivals) -> Mapping[str, Tensor]:
        return self._observed(params["threshold"], rivals.smallest(smallest_active(acts)))

    def _observed(self, before: Tensor, smallest: Tensor) -> Mapping[str, Tensor]:
        smallest = smallest.to(before.dtype)
        after = torch.where(before > 0, before.lerp(smallest, 1 - self.threshold_decay), smallest)
        return {"threshold": torch.where(smallest < torch.inf, after, before)}

    def inference(self, params: Params) -> tuple[Architecture, Params]:
        return JumpReLU(d_sae=self.d_sae), {**params, "threshold": self.threshold(params)}

    def training_params(self, sae: Architecture, params: Params) -> Params | None:
        """Takes the one threshold of all latents; None if they have several, which no BatchTopK has."""
        if not isinstance(sae, JumpReLU) or (params["threshold"] != params["threshold"][0]).any():
            return None
        return {**params, "threshold": params["threshold"][0]}

    def unscaled(self, params: Params, scale: float) -> Params:
        return {**super().unscaled(params, scale), "threshold": params["threshold"] / scale}


def smallest_active(acts: Tensor) -> Tensor:
    """Returns the smallest activation above 0, (); infinity if there is none."""
    return torch.where(acts > 0, acts, torch.inf).min()
