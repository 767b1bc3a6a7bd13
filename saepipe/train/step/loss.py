"""One forward pass and the terms of its loss: the reconstruction, then each penalty by name.

Everything here is a function of tensors. The dense path works under torch.func.vmap, which is how runs are stacked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from operator import add

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from saepipe.train.answers import check_scalars, check_tensor, check_type
from saepipe.train.config import RECONSTRUCTION, TrainConfig, labels
from saepipe.train.kernels.autograd import column_sums
from saepipe.train.kernels.constants import constant
from saepipe.train.parallel.joined_acts import JoinedActs
from saepipe.train.penalties.base import Penalised, Penalty, State, StepContext, ask
from saepipe.train.sae.base import Architecture, Params
from saepipe.train.sae.dense_acts import DenseActs
from saepipe.train.sae.encoding import encode
from saepipe.train.sae.entries import LatentActs
from saepipe.train.sae.room import Room
from saepipe.train.sae.transcoder import skipped, split_rows
from saepipe.train.setting import SettingsNow
from saepipe.train.transforms.base import Codes, Transformed

NO_LATENT = torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True)
class Moment:
    """Everything that a step's loss depends on besides the parameters and the rows. Dicts are by label (`labels`)."""

    step: int  # counted from 0
    num_steps: int
    seed: int
    tokens_since_fired: Tensor  # (d_sae,) int64
    dead_after: int  # tokens
    any_dead: bool
    uniform: Tensor | None  # (d_sae,) random numbers of this seed and step
    now: Mapping[str, SettingsNow]
    states: Mapping[str, State]
    widths: tuple[int, ...] = ()  # of a crosscoder's hooks
    room: Room | None = None  # for the entries of a captured sparse step
    scale: float | Tensor = 1.0  # of x over the stored rows, () or (d_in,)


@dataclass(frozen=True)
class Term:
    """One summand of the loss."""

    value: Tensor  # () float32, before the weight
    weight: float | Tensor  # its value at this step

    @cached_property
    def weighted(self) -> Tensor:
        return self.value if isinstance(self.weight, float) and self.weight == 1 else self.value * self.weight


@dataclass(frozen=True)
class Loss:
    """The loss of one step, in parts."""

    ctx: StepContext
    terms: dict[str, Term]
    statistics_by_label: Mapping[str, Mapping[str, Tensor]]
    states: dict[str, State]  # of penalties and transforms, after this step
    encoded_sum: Tensor  # (d_sae,): activations before any transform, summed over the batch
    buffers: Mapping[str, Tensor]  # the architecture's, after this step

    @cached_property
    def statistics(self) -> dict[str, Tensor]:
        """() each, as `<component>/<statistic>`. Read them before the parameters change: some are computed only now."""
        return {
            f"{label}/{name}": value.detach()
            for label, statistics in self.statistics_by_label.items()
            for name, value in statistics.items()
        }

    @property
    def total(self) -> Tensor:
        return reduce(add, (term.weighted for term in self.terms.values()))

    def with_term(self, name: str, term: Term) -> Loss:
        """Returns the loss with one more summand."""
        return replace(self, terms={**self.terms, name: term})

    @cached_property
    def values(self) -> Tensor:
        """(num_terms,): every term before its weight."""
        return torch.stack([term.value for term in self.terms.values()])

    @cached_property
    def factors(self) -> Tensor:
        """(num_terms, 2): 1 and the weight of each term; its value times these is what the log sums up."""
        return factors_of([term.weight for term in self.terms.values()], self.values.dtype, self.values.device)

    def gradients(self, params: Params, factors: Tensor | None = None) -> list[Tensor]:
        """Returns the gradient of `total` for each parameter; each term starts with its weight, so none is summed."""
        weights = (self.factors if factors is None else factors)[:, 1]
        return list(torch.autograd.grad(self.values, list(params.values()), weights))


def factors_of(weights: Sequence[float | Tensor], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns 1 and the weight of each term, (num_terms, 2)."""
    return scalars(tuple(factor for weight in weights for factor in (1.0, weight)), dtype, device).view(-1, 2)


def scalars(numbers: tuple[float | Tensor, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns numbers, of which some may be () tensors, as one tensor (num,), not to be changed in place."""
    plain = tuple(number for number in numbers if not isinstance(number, Tensor))
    if len(plain) == len(numbers):
        return constant(plain, dtype, device)
    return torch.stack(
        [
            number.to(dtype) if isinstance(number, Tensor) else constant((number,), dtype, device)[0]
            for number in numbers
        ]
    )


def token_errors(x: Tensor, x_hat: Tensor, kind: str) -> Tensor:
    """|x - x_hat|^2 (`squared`) or |x - x_hat| (`norm`) of each token; (batch, d_out) twice -> (batch,).

    It is summed row by row, because torch splits the sum of a whole matrix by the number of threads, and health.json
    would then depend on it.
    """
    if kind == "squared":
        return mse_loss(x_hat, x, reduction="none").sum(1)
    return torch.linalg.vector_norm(x - x_hat, dim=1)


def compute_loss(
    config: TrainConfig, params: Params, rows: Tensor, moment: Moment, dtype: torch.dtype, *, sparse: bool = False
) -> Loss:
    """Computes the loss of one step, its statistics and the next states.

    Args:
        config: resolved.
        params: all parameters of the architecture, buffers included.
        rows: x (batch, d_in) float32, scaled; a transcoder's target is beside it, (batch, d_in + d_out).
        moment: step, settings and states of the run.
        dtype: dtype of the matrix products.
        sparse: compute only with the active entries. The numbers are the same up to rounding.
    """
    x, _ = split_rows(rows, params["W_enc"].shape[0])
    forward = (_sparse if sparse else _dense)(config, params, x, moment, dtype)
    forward = replace(forward, x_hats=with_skip(forward.x_hats, params, x, dtype))
    return loss_after(forward, config, params, rows, moment)


def loss_after(forward: Forward, config: TrainConfig, params: Params, rows: Tensor, moment: Moment) -> Loss:
    """Computes the loss of a forward pass; other arguments as for `compute_loss`."""
    x, target = split_rows(rows, params["W_enc"].shape[0])
    threshold = config.sae.threshold(params)
    ctx = context(x, target, forward.x_hats[-1], forward.latent_acts, params, threshold, moment)
    errors = total_errors(target, forward.x_hats, config.reconstruction)
    answers = ask_all(config, moment, lambda penalty, state, now: ask(penalty, ctx, state, now))
    return Loss(
        ctx,
        terms={RECONSTRUCTION: Term(errors.mean(), 1.0), **answers.terms},
        statistics_by_label={**forward.statistics, **answers.statistics},
        states={**forward.states, **answers.states},
        encoded_sum=forward.encoded_sum,
        buffers=config.sae.observe(params, forward.encoded),
    )


def with_skip(x_hats: tuple[Tensor, ...], params: Params, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Adds a transcoder's skip, if it has one, to every reconstruction."""
    skip = skipped(params, x, dtype)
    return x_hats if skip is None else tuple(x_hat + skip for x_hat in x_hats)


def total_errors(target: Tensor, x_hats: Sequence[Tensor], kind: str) -> Tensor:
    """Returns each token's errors, (batch,), summed over all reconstructions."""
    return reduce(add, (token_errors(target, x_hat, kind) for x_hat in x_hats))


@dataclass(frozen=True)
class Answers:
    """What the penalties of a step answered; dicts are by label."""

    terms: dict[str, Term]
    statistics: dict[str, Mapping[str, Tensor]]
    states: dict[str, State]


def ask_all(
    config: TrainConfig, moment: Moment, ask_one: Callable[[Penalty, State, SettingsNow], Penalised]
) -> Answers:
    """Asks every penalty in the config's order."""
    answers = Answers({}, {}, {})
    for label, penalty in zip(labels(config.penalties), config.penalties, strict=True):
        answer = ask_one(penalty, moment.states[label], moment.now[label])
        answers.terms[label] = Term(answer.value, moment.now[label]["weight"])
        answers.statistics[label] = answer.statistics
        answers.states[label] = {name: tensor.detach() for name, tensor in answer.state.items()}
    return answers


@dataclass(frozen=True)
class Forward:
    """A forward pass."""

    latent_acts: LatentActs
    x_hats: tuple[Tensor, ...]  # (batch, d_out) each, without a transcoder's skip
    encoded: Tensor  # the activations before any transform, without gradient, of any shape
    encoded_sum: Tensor  # (d_sae,): `encoded` summed over the batch
    states: dict[str, State]  # of the transforms
    statistics: dict[str, Mapping[str, Tensor]]


def _dense(config: TrainConfig, params: Params, x: Tensor, moment: Moment, dtype: torch.dtype) -> Forward:
    """Computes all latents at every token: the definition."""
    sae = config.sae
    pre_acts = sae.pre_acts(params, x, dtype)
    shape = (len(x), sae.d_sae)
    check_tensor(pre_acts, shape, sae, "pre_acts", "(batch, d_sae)", "pre_acts")
    encoded = sae.activate_training(params, pre_acts)
    check_tensor(encoded, shape, sae, "activations", "(batch, d_sae)", _activating(sae))
    encoded_sum = encoded.sum(0, dtype=x.dtype)
    acts, states, statistics = transformed(config, encoded, lambda: pre_acts, params["W_dec"], moment)
    activations = DenseActs(
        pre_acts=pre_acts,
        acts=acts,
        acts_sum=encoded_sum if acts is encoded else acts.sum(0, dtype=x.dtype),
        gate_acts=sae.gate_acts(params, pre_acts, acts),
    )
    x_hats = sae.reconstructions(params, pre_acts, acts)
    for x_hat in x_hats:
        check_tensor(x_hat, (len(x), params["W_dec"].shape[1]), sae, "x_hat", "(batch, d_out)", "decode")
    return Forward(activations, x_hats, encoded.detach(), encoded_sum.detach(), states, statistics)


def _activating(sae: Architecture) -> str:
    """Returns the method that computes a training step's activations."""
    plain = type(sae).activate_training is Architecture.activate_training
    return "activate" if plain else "activate_training"


def _sparse(config: TrainConfig, params: Params, x: Tensor, moment: Moment, dtype: torch.dtype) -> Forward:
    """Computes only the entries that a gradient can reach: `saepipe.train.sae.entries`."""
    kept, screen = _kept(config, moment), (config.screening, moment.scale)
    carried = bool(config.transforms)
    entries = encode(config.sae, params, x, dtype, kept, *screen, transformed=carried, room=moment.room)
    encoded = entries.entry_acts.detach()
    # Without an estimator the sum is the one that penalties read, and is kept for them.
    shared = entries.estimate is None
    encoded_sum = entries.acts_sum.detach() if shared else column_sums(entries.pattern, encoded)
    states: dict[str, State] = {}
    statistics: dict[str, Mapping[str, Tensor]] = {}
    if config.transforms:
        plain = entries
        acts, states, statistics = transformed(config, plain.acts, lambda: plain.pre_acts, params["W_dec"], moment)
        entries = entries.with_acts(config.sae, params, entries.pattern.values_of(acts))
    return Forward(entries, entries.reconstructions(config.sae, params), encoded, encoded_sum, states, statistics)


def _kept(config: TrainConfig, moment: Moment) -> Tensor | None:
    """Returns the indices of the latents whose pre-activations are kept for the penalties; None: all.

    On CUDA nothing waits for a number of latents, so it is none, where a screen needs no other, or all.
    """
    read = {penalty.reads_pre_acts(config.sae) for penalty in config.penalties}
    read_dead, device = "dead" in read and moment.any_dead, moment.tokens_since_fired.device
    if "all" in read or (device.type != "cpu" and (read_dead or config.screening != "always")):
        return None
    if read_dead:
        return (moment.tokens_since_fired >= moment.dead_after).nonzero().squeeze(1)
    return NO_LATENT.to(device)


def context(
    x: Tensor,
    target: Tensor,
    x_hat: Tensor,
    latent_acts: LatentActs | JoinedActs,
    weights: Mapping[str, Tensor],
    threshold: Tensor | None,
    moment: Moment,
) -> StepContext:
    """Returns a step as its penalties see it; the arguments are named as in `StepContext`."""
    return StepContext(
        x=x,
        target=target,
        latent_acts=latent_acts,
        x_hat=x_hat,
        weights=weights,
        threshold=threshold,
        tokens_since_fired=moment.tokens_since_fired,
        dead_after=moment.dead_after,
        any_dead=moment.any_dead,
        step=moment.step,
        num_steps=moment.num_steps,
        uniform=moment.uniform,
        widths=moment.widths,
    )


def transformed(
    config: TrainConfig, acts: Tensor, read_pre_acts: Callable[[], Tensor], W_dec: Tensor, moment: Moment
) -> tuple[Tensor, dict[str, State], dict[str, Mapping[str, Tensor]]]:
    """Applies every transform in the config's order; returns the activations, the new states and the statistics."""
    states: dict[str, State] = {}
    statistics: dict[str, Mapping[str, Tensor]] = {}
    for label, transform in zip(labels(config.transforms), config.transforms, strict=True):
        codes = Codes(read_pre_acts, acts, W_dec=W_dec, seed=moment.seed, step=moment.step)
        answer = transform(codes, moment.states[label], moment.now[label])
        check_type(answer, Transformed, transform)
        check_tensor(answer.acts, tuple(acts.shape), transform, "acts", "(batch, d_sae)")
        check_scalars(answer.statistics, transform)
        acts = answer.acts
        statistics[label] = answer.statistics
        states[label] = {name: tensor.detach() for name, tensor in answer.state.items()}
    return acts, states, statistics
