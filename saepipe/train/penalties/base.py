"""What a penalty is: settings, and one pure function of a step."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from saepipe.data.config.component import Component
from saepipe.train.penalties.lazily import Lazily
from saepipe.train.sae.base import Architecture
from saepipe.train.sae.entries import Entries
from saepipe.train.sae.jumprelu import near
from saepipe.train.setting import Setting, SettingsNow, settings_of, within

State = dict[str, Tensor]
"""What a penalty remembers between steps (running means, ...)."""

Range = tuple[float, float]
"""The least and the greatest value that a statistic can have."""

ANY: Range = (0.0, math.inf)
SHARE: Range = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """One variant's step, as a penalty sees it; in scaled units (E|x|^2 = d_in). Rows of W_dec have unit norm.

    Only the part of W_dec's gradient that turns a row is used; the part along the row is removed.

    Everything can be read in every step and has its gradient. In a sparse step the arrays (batch, d_sae) are made
    when they are first read, which costs a pass over them; the gradient of `pre_acts` costs a whole matrix product.
    What is below `entries` costs what its entries do.
    """

    x: Tensor  # (batch, d_in) float32
    pre_acts: Lazily[Tensor] = Lazily()  # (batch, d_sae) in the compute dtype
    acts: Lazily[Tensor] = Lazily()  # (batch, d_sae) in the compute dtype, none negative; after the transforms
    acts_sum: Lazily[Tensor] = Lazily()  # (d_sae,) float32: acts summed over the batch
    gate_acts: Lazily[Tensor] = Lazily()
    """(batch, d_sae): what makes a latent sparse; acts, but in a gated SAE its gate's relu."""
    x_hat: Tensor  # (batch, d_in) float32
    W_enc: Tensor  # (d_in, d_sae)
    b_enc: Tensor  # (d_sae,)
    W_dec: Tensor  # (d_sae, d_in)
    b_dec: Tensor  # (d_in,)
    threshold: Tensor | None  # (d_sae,) that pre_acts must exceed, where the architecture has one
    dead: Tensor  # (d_sae,) bool: silent for longer than the run's threshold, before this step
    any_dead: bool  # False where it is known, without waiting for the device, that `dead` is all False
    step: int  # counted from 0
    num_steps: int
    uniform: Tensor | None  # (d_sae,) random numbers in [0, 1) of this seed and step, for penalties that draw
    entries: Entries | None = None  # of a sparse step

    @property
    def gate_values(self) -> Tensor:
        """Every entry of `gate_acts` that may differ from 0 or has a gradient, float32; of any shape."""
        here = self.entries
        return (self.gate_acts if here is None or here.estimate else here.acts).to(self.x.dtype)

    @property
    def gate_sum(self) -> Tensor:
        """`gate_acts` summed over batch and latents, () float32."""
        if self.entries is None and self.gate_acts is self.acts:
            return self.acts_sum.sum()  # one pass less: it was summed over the batch already
        return self.gate_values.sum()

    @property
    def l0(self) -> Tensor:
        """Active latents a token, mean over the batch (), without gradient."""
        acts = self.acts if self.entries is None else self.entries.acts
        return (acts.detach() > 0).sum() / len(self.x)

    @property
    def rate(self) -> Tensor:
        """The share of the batch's tokens on which each latent fires (d_sae,), without gradient."""
        return self.over_batch(lambda acts: (acts > 0).to(self.x.dtype)) / len(self.x)

    def over_batch(self, of: Callable[[Tensor], Tensor]) -> Tensor:
        """The sum over the batch of a function of each activation that is 0 where that is: (d_sae,) float32."""
        if self.entries is None or self.entries.estimate:
            return of(self.acts).sum(0, dtype=self.x.dtype)
        return self.entries.over_batch(of(self.entries.acts))

    def num_near(self, bandwidth: float) -> Tensor:
        """Of the batch's pre-activations, those within bandwidth / 2 of their latent's threshold: (d_sae,) float32."""
        assert self.threshold is not None, "the architecture has no thresholds"
        here = None if self.entries is None else self.entries.estimate
        if here is not None and here.bandwidth == bandwidth:
            return here.count
        return near(self.pre_acts, self.threshold.detach(), bandwidth).sum(0).to(self.x.dtype)

    def first_acts(self, num_tokens: int) -> Tensor:
        """`acts` of the batch's first tokens (num_tokens, d_sae), without gradient."""
        if self.entries is None:
            return self.acts[:num_tokens].detach()
        return self.entries.first_acts(min(num_tokens, len(self.x)))

    def decode_largest(self, num_latents: int, among: Tensor) -> Tensor:
        """What a token's largest pre-activations, cut at 0, decode to without b_dec: (batch, d_in) float32.

        Args:
            num_latents: how many of each token.
            among: (d_sae,) bool, of which latents; where there are fewer, those.
        """
        if self.entries is not None:
            return self.entries.decode_largest(num_latents, among, self.W_dec)
        values, indices = self.pre_acts.masked_fill(~among, float("-inf")).topk(num_latents, dim=1, sorted=False)
        acts = self.pre_acts.new_zeros(self.pre_acts.shape).scatter(1, indices, values.relu())
        return (acts @ self.W_dec.to(acts.dtype)).to(self.x.dtype)

    @property
    def power(self) -> Tensor:
        """E_b |x|^2 (), without gradient: it brings a term without units to those of the reconstruction error."""
        return self.x.square().sum(1).mean().detach()


@dataclass(frozen=True)
class Penalised:
    """What a penalty answers."""

    value: Tensor  # () float32, before its weight
    statistics: Mapping[str, Tensor]  # each () : what to log beside it
    state: State


class Penalty(Component):
    """A term of the loss: weight_now * value. `warmup` is the fraction of the run over which the weight rises from 0.

    Being pure (no attribute is written, no random number drawn), a penalty is resumed by its state alone.
    It sees one run, also when several are stacked: then under torch.func.vmap, so nothing in it may wait for a
    tensor's value or make a shape from it.
    """

    family: ClassVar[str] = "penalty"
    package: ClassVar[str] = "saepipe.train.penalties"
    statistics: ClassVar[Mapping[str, Range]] = {}
    """Every statistic it logs, and the range of each."""
    draws: ClassVar[bool] = False
    """Does it need `StepContext.uniform`?"""
    estimated: ClassVar[frozenset[str]] = frozenset()
    """Tensors of the context whose gradient is an estimate on purpose (straight-through), not the slope."""
    may_rest: ClassVar[bool] = False
    """May its value rightly be zero for a whole run?"""

    weight: Annotated[Setting, within(0, math.inf)]
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.0

    def refuses(self, sae: Architecture) -> str | None:
        """Why it cannot be used with an architecture; None where it can."""
        return None

    def doubts(self) -> Sequence[str]:
        """What the settings alone give reason to doubt; each becomes a warning of rule H4."""
        return ()

    def settings(self) -> dict[str, Setting]:
        """Those that may move, by name."""
        return settings_of(self)

    def init_state(self, d_in: int, d_sae: int) -> State:
        """State before the first step, on the CPU; shapes and dtypes never change afterwards."""
        return {}

    @abstractmethod
    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        """The term before its weight, averaged over the batch so that no weight depends on the batch size."""
