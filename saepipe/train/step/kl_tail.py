"""The term of the tail: KL(clean || spliced) of the language model's next-token distributions, in nats.

    loss += a KL,   a = weight * reconstruction / KL, through which no gradient flows

Karvonen 2025 (arXiv 2503.17272) scales the divergence so at each step, to the magnitude of the reconstruction's error.
Here the error is that of the stream's rows, and the divergence that of some training windows, at whose kept positions
x_hat takes the place of the activations: the figure `kl_div_with_sae` of `core`. The model belongs to a stage above
this one, so a tail knows it only by the protocols below.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from saepipe.data.batches.shuffle import permutation
from saepipe.data.cache.cache import Cache
from saepipe.data.terminal.progress import Progress
from saepipe.train.config import RECONSTRUCTION, TrainConfig
from saepipe.train.sae.base import Params
from saepipe.train.sae.encoding import encode
from saepipe.train.sae.transcoder import skipped
from saepipe.train.step.loss import NO_LATENT, Loss, Term
from saepipe.train.step.state import Recipe, TrainState

LEAST_KL = 1e-6
"""Nats below which the term is not scaled up any more: float32 logits tell no smaller divergence from rounding."""


class CleanWindows(Protocol):
    """Training windows over which the clean model has run, for every run that makes this step."""

    @property
    def x(self) -> Tensor:
        """(num_kept, d_in) float32: raw activations that the encoder reads, at the kept positions"""

    def kl(self, x_hat: Tensor) -> Tensor:
        """Returns the mean KL, (), of the model with x_hat (num_kept, d_out), raw, in place of the activations."""


class TailModel(Protocol):
    """The language model that made a cache, at the hook that a tail's runs reconstruct."""

    @property
    def num_windows(self) -> int:
        """Number of the cache's training windows."""

    def clean(self, numbers: Sequence[int]) -> CleanWindows:
        """Runs the clean model over the training windows with these numbers."""


class TailModels(Protocol):
    """The language models of caches."""

    def at(self, cache: Cache, hook: str, target: str | None) -> TailModel:
        """Returns the model of a cache at a hook, and a transcoder's target; raises SaepipeError if it is unusable."""


OpenTailModels = Callable[[torch.device, Progress], TailModels]
"""Opens the models on a device, reporting to a progress."""


class SharedWindows:
    """The windows of each step, over which the clean model runs once for all runs of a stream."""

    def __init__(self, model: TailModel, data_seed: int) -> None:
        self._model, self._data_seed = model, data_seed
        self._step, self._by_count = -1, dict[int, CleanWindows]()

    def at(self, step: int, count: int) -> CleanWindows:
        """Returns the `count` windows of a step, counted from 0, whichever steps were asked for before."""
        if step != self._step:
            self._step, self._by_count = step, {}
        if count not in self._by_count:
            numbers = window_numbers(step, count, self._model.num_windows, self._data_seed)
            self._by_count[count] = self._model.clean(numbers)
        return self._by_count[count]


def window_numbers(step: int, count: int, num_windows: int, data_seed: int) -> list[int]:
    """Returns which windows a step reads: the next `count` of endless permutations of all, a new one per epoch."""
    epochs, numbers = dict[int, Tensor](), []
    for position in range(step * count, (step + 1) * count):
        epoch, index = divmod(position, num_windows)
        if epoch not in epochs:
            epochs[epoch] = permutation(num_windows, data_seed, epoch)
        numbers.append(int(epochs[epoch][index]))
    return numbers


def kl_term(recipe: Recipe, state: TrainState, loss: Loss, windows: CleanWindows | None) -> Term:
    """Returns the tail's term; before the tail, where there are no windows, it is 0.

    Args:
        recipe: of the step.
        state: before the step.
        loss: the other terms, on the stream's rows.
        windows: of the step.
    """
    error = loss.terms[RECONSTRUCTION].value.detach()
    if windows is None:
        return Term(torch.zeros_like(error), 0.0)
    x, target_scale = windows.x * recipe.scale, recipe.target.scale if recipe.target else recipe.scale
    x_hat = reconstruct(recipe.config, state.all_params, x, recipe.dtype, sparse=state.sparse)
    kl = windows.kl(x_hat / target_scale)
    return Term(kl, recipe.config.kl_tail.weight * error / kl.detach().clamp_min(LEAST_KL))


def reconstruct(config: TrainConfig, params: Params, x: Tensor, dtype: torch.dtype, *, sparse: bool) -> Tensor:
    """Reconstructs scaled x (num_rows, d_in) with the latents that training chooses, without transforms: (.., d_out).

    A BatchTopK keeps k latents per row over these rows. `sparse` computes only the active ones, as in a step.
    """
    sae = config.sae
    if sparse:
        entries = encode(sae, params, x, dtype, NO_LATENT, config.screening)
        x_hat = entries.reconstructions(sae, params)[-1]
    else:
        pre_acts = sae.pre_acts(params, x, dtype)
        x_hat = sae.reconstructions(params, pre_acts, sae.activate_training(params, pre_acts))[-1]
    skip = skipped(params, x, dtype)
    return x_hat if skip is None else x_hat + skip
