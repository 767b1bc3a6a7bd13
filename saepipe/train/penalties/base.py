"""The family of penalties: settings, and one pure function of a step."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from saepipe.data.config.component import Component
from saepipe.train.answers import check_scalars, check_tensor, check_type
from saepipe.train.parallel.joined_acts import JoinedActs
from saepipe.train.sae.base import Architecture
from saepipe.train.sae.dense_acts import DenseActs
from saepipe.train.sae.entries import LatentActs
from saepipe.train.setting import Setting, SettingsNow, settings_of, within

State = dict[str, Tensor]
"""State that a penalty keeps between steps (running means, ...)."""

Range = tuple[float, float]
"""Least and greatest value that a statistic can have."""

WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec")

ANY: Range = (0.0, math.inf)
SHARE: Range = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """One step of one variant, as a penalty sees it; in scaled units (E|x|^2 = d_in). Rows of W_dec have unit norm.

    d_out is d_in, unless the run is a transcoder.

    Only the part of W_dec's gradient that turns a row is used; the part along the row is removed.

    Everything can be read in every step and has its gradient. In a sparse step `pre_acts`, `acts` and `gate_acts` are
    computed when they are first read, which costs a pass over (batch, d_sae); the gradient of `pre_acts` costs a whole
    matrix product. The properties and methods below `gate_values` cost only what the active entries do.
    """

    x: Tensor  # (batch, d_in) float32: what the encoder reads
    target: Tensor  # (batch, d_out) float32: what is reconstructed; x itself, unless the run is a transcoder
    latent_acts: LatentActs | JoinedActs  # of x: dense, the entries of a sparse step, or those of all ranks
    x_hat: Tensor  # (batch, d_out) float32: reconstruction of the target
    weights: Mapping[str, Tensor]  # W_enc, b_enc, W_dec and b_dec, which the properties of these names read
    threshold: Tensor | None  # (d_sae,) that pre_acts must exceed, if the architecture has thresholds
    tokens_since_fired: Tensor  # (d_sae,) int64: tokens since each latent was last active, before this step
    dead_after: int  # tokens of silence after which a latent is dead
    any_dead: bool  # False if `dead` is all False and that is known without waiting for the device
    step: int  # counted from 0
    num_steps: int
    uniform: Tensor | None  # (d_sae,) random numbers in [0, 1) of this seed and step, for penalties that draw
    widths: tuple[int, ...] = ()  # channels of each of a crosscoder's hooks, which are side by side in x; () otherwise

    @property
    def W_enc(self) -> Tensor:  # noqa: N802 - the name in the field
        """(d_in, d_sae)"""
        return self.weights["W_enc"]

    @property
    def b_enc(self) -> Tensor:
        """(d_sae,)"""
        return self.weights["b_enc"]

    @property
    def W_dec(self) -> Tensor:  # noqa: N802
        """(d_sae, d_out)"""
        return self.weights["W_dec"]

    @property
    def b_dec(self) -> Tensor:
        """(d_out,)"""
        return self.weights["b_dec"]

    @cached_property
    def dead(self) -> Tensor:
        """Latents that have been silent for at least the run's threshold, before this step: (d_sae,) bool."""
        return self.tokens_since_fired >= self.dead_after

    @property
    def pre_acts(self) -> Tensor:
        """(batch, d_sae) in the compute dtype."""
        return self.latent_acts.pre_acts

    @property
    def acts(self) -> Tensor:
        """(batch, d_sae) in the compute dtype, never negative, after the transforms."""
        return self.latent_acts.acts

    @property
    def acts_sum(self) -> Tensor:
        """(d_sae,) float32: acts summed over the batch."""
        return self.latent_acts.acts_sum

    @property
    def gate_acts(self) -> Tensor:
        """(batch, d_sae): what makes a latent sparse; `acts`, but the ReLU of the gate in a gated SAE."""
        return self.latent_acts.gate_acts

    @property
    def gate_values(self) -> Tensor:
        """Every entry of `gate_acts` that may differ from 0 or has a gradient, float32; of any shape."""
        return self.latent_acts.gate_values.to(self.x.dtype)

    @property
    def gate_sum(self) -> Tensor:
        """`gate_acts` summed over batch and latents, () float32."""
        return self.latent_acts.gate_sum

    @cached_property
    def l0(self) -> Tensor:
        """Active latents per token, mean over the batch, () without gradient."""
        return self.latent_acts.num_active / len(self.x)

    @property
    def rate(self) -> Tensor:
        """Share of the batch's tokens on which each latent is active, (d_sae,) without gradient."""
        return self.over_batch(lambda acts: acts.detach().sign()) / len(self.x)  # as no activation is negative

    def over_batch(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Sums over the batch a function of each activation that is 0 at 0: (d_sae,) float32."""
        return self.latent_acts.over_batch(function)

    def over_gates(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Sums over batch and latents a function of each of `gate_acts`, in float32, that is 0 at 0: () float32.

        In a sparse step it sums by latent first, so that entries that only pad a captured step change no rounding.
        """
        return self.latent_acts.over_gates(lambda gates: function(gates.to(self.x.dtype)))

    def num_near(self, bandwidth: float) -> Tensor:
        """Counts the batch's pre-activations within bandwidth / 2 of their latent's threshold: (d_sae,) float32."""
        assert self.threshold is not None, "the architecture has no thresholds"
        return self.latent_acts.num_near(self.threshold.detach(), bandwidth).to(self.x.dtype)

    def num_above(self, threshold: Tensor | float) -> Tensor:
        """Counts the batch's pre-activations above a threshold, () or (d_sae,), that no inactive one exceeds."""
        return self.latent_acts.num_above(threshold)

    def first_acts(self, num_tokens: int) -> Tensor:
        """Returns `acts` of the batch's first tokens, (num_tokens, d_sae), without gradient."""
        return self.latent_acts.first_acts(num_tokens)

    def decode_largest(self, num_latents: int, among: Tensor) -> Tensor:
        """Decodes, without b_dec, each token's largest pre-activations among the given latents, cut at 0.

        Args:
            num_latents: number of latents per token.
            among: (d_sae,) bool, the latents to choose from; if there are fewer, all of them.

        Returns:
            (batch, d_out) float32.
        """
        return self.latent_acts.decode_largest(num_latents, among, self.weights).to(self.x.dtype)

    @cached_property
    def power(self) -> Tensor:
        """E_b |target|^2, () without gradient: brings a term without units to those of the reconstruction error."""
        return self.target.detach().square().sum(1).mean()

    def changed(self, **fields: Any) -> StepContext:
        """A copy with other fields; weights and dense activations may be given by their own names (`W_dec`, `acts`)."""
        weights = {name: fields.pop(name) for name in WEIGHTS if name in fields}
        if weights:
            fields["weights"] = {**self.weights, **weights}
        own = {name: fields.pop(name) for name in ("pre_acts", "acts", "acts_sum", "gate_acts") if name in fields}
        if own:
            assert isinstance(self.latent_acts, DenseActs), "only dense activations can be replaced one by one"
            fields["latent_acts"] = replace(self.latent_acts, **own)
        return replace(self, **fields)


class WhenRead(Mapping[str, Tensor]):
    """Statistics that `compute` returns, computed when one is read: most steps are not sampled for the log."""

    def __init__(self, compute: Callable[[], Mapping[str, Tensor]]) -> None:
        self._compute = compute
        self.of: Component | None = None
        """whose statistics they are; their shapes are then checked"""

    @cached_property
    def _computed(self) -> Mapping[str, Tensor]:
        with torch.no_grad():
            values = self._compute()
        if self.of is not None:
            check_scalars(values, self.of)
        return values

    def __getitem__(self, name: str) -> Tensor:
        return self._computed[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._computed)

    def __len__(self) -> int:
        return len(self._computed)


@dataclass(frozen=True)
class Penalised:
    """The answer of a penalty."""

    value: Tensor  # () float32, before its weight
    statistics: Mapping[str, Tensor]  # () each, logged beside the value; `WhenRead` if they take many operations
    state: State


class Penalty(Component):
    """A term of the loss: weight_now * value. `warmup` is the fraction of the run over which the weight rises from 0.

    A penalty is pure (it writes no attribute and draws no random number), so its state is enough to resume it.
    It always sees one run. Stacked runs call it under torch.func.vmap, so nothing in it may wait for a tensor's value
    or derive a shape from one.
    """

    family: ClassVar[str] = "penalty"
    package: ClassVar[str] = "saepipe.train.penalties"
    statistics: ClassVar[Mapping[str, Range]] = {}
    """Statistics that it logs, with the range of each."""
    draws: ClassVar[bool] = False
    """Whether it needs `StepContext.uniform`."""
    estimated: ClassVar[frozenset[str]] = frozenset()
    """Tensors of the context whose gradient is an estimate on purpose (straight-through), not the slope."""
    dense_arrays: ClassVar[float] = 0
    """Arrays (batch, d_sae) that it adds to those of a dense step at its peak."""
    lowers_l0: ClassVar[bool] = False
    """Whether its weight sets L0: the more weight, the fewer active latents. A study steers L0 by it."""
    may_rest: ClassVar[bool] = False
    """Whether its value may legitimately be zero for a whole run."""

    weight: Annotated[Setting, within(0, math.inf)]
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.0

    def refuses(self, sae: Architecture) -> str | None:
        """Returns why it cannot be used with an architecture, or None if it can."""
        return None

    def sums_over_latents(self) -> bool:
        """Returns whether its value is a sum over latents, and a mean over tokens, of terms that need no state.

        Only the work of a run over ranks depends on it: each rank then computes the terms of its own latents and
        tokens, and the values are added up. What other penalties read is gathered on every rank.
        """
        return False

    def reads_pre_acts(self, sae: Architecture) -> Literal["active", "dead", "all"]:
        """Returns the latents whose pre-activations it reads at tokens where they are off, too.

        Only speed depends on it: a sparse step keeps these, and computes others again if they are read.
        """
        return "active"

    def held_arrays(self) -> float:
        """Returns `dense_arrays` of this penalty and of those that it holds."""
        return self.dense_arrays

    def doubts(self) -> Sequence[str]:
        """Returns doubts that the settings alone raise; each becomes a warning of rule H4."""
        return ()

    def settings(self) -> dict[str, Setting]:
        """Returns the settings that may move, by name."""
        return settings_of(self)

    def draws_at(self, step: int) -> bool:
        """Returns whether it needs `StepContext.uniform` at a step; most that draw need it at every one."""
        return self.draws

    def init_state(self, d_in: int, d_sae: int) -> State:
        """Returns the state before the first step, on the CPU; shapes and dtypes never change afterwards."""
        return {}

    @abstractmethod
    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        """Computes the term before its weight, averaged over the batch so that no weight depends on the batch size."""


def ask(penalty: Penalty, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
    """Calls a penalty on a step; raises AnswerError if what it returns has another type or shape than declared."""
    answer = penalty(ctx, state, now)
    check_type(answer, Penalised, penalty)
    check_tensor(answer.value, (), penalty, "value", "()")
    if isinstance(answer.statistics, WhenRead):
        answer.statistics.of = penalty
    else:
        check_scalars(answer.statistics, penalty)
    return answer
