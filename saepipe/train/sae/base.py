"""The family of architectures: settings, and pure functions over the parameters."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import linear, normalize

from saepipe.data.config.base import Count
from saepipe.data.config.component import Component
from saepipe.train.kernels import autograd
from saepipe.train.kernels.pattern import Pattern, true_positions
from saepipe.train.sae.rivals import Rivals
from saepipe.train.sae.straight_through import StraightThrough
from saepipe.train.schedule import Schedule

Params = dict[str, Tensor]
"""W_enc (d_in, d_sae), b_enc (d_sae,), W_dec (d_sae, d_in), b_dec (d_in,); an architecture may add its own.

In a transcoder W_dec is (d_sae, d_out), b_dec (d_out,), and b_in (d_in,) is there: `saepipe.train.sae.transcoder`.
"""

PER_CHANNEL = frozenset({"b_dec", "b_in"})
"""Vectors with an element per channel of the activations; all others have one per latent."""

CHOOSING = frozenset({"activate", "activate_training", "mask", "near", "pattern"})
"""Methods by which an architecture chooses its entries."""

COMPUTING = CHOOSING | {"encoder_input", "pre_acts", "gate_acts", "decode", "reconstructions", "observe"}
"""Methods by which a dense step computes."""


def is_active(acts: Tensor) -> Tensor:
    """Returns where latents are active, bool: the one definition for training and evaluation."""
    return acts > 0


class Architecture(Component):
    """Encoder and decoder of `d_sae` latents; a member defines how pre-activations become activations.

    Parameters are float32; `dtype` is the dtype of the matrix products and of the activations. All methods are pure
    functions of tensors and work under torch.func.vmap.
    """

    family: ClassVar[str] = "architecture"
    package: ClassVar[str] = "saepipe.train.sae"
    buffers: ClassVar[frozenset[str]] = frozenset()
    """Names of the parameters that no gradient trains."""
    tied: ClassVar[bool] = False
    """Whether the encoder is the decoder's transpose throughout, so that W_enc and b_enc are buffers."""
    elementwise: ClassVar[bool] = False
    """Whether each latent's activation depends on that latent only, so that some can be computed without the rest."""
    sparse: ClassVar[bool] = False
    """Whether the architecture has sparse steps; it then overrides `pattern` or `mask`."""
    in_pieces: ClassVar[bool] = False
    """Whether a sparse step may ask `candidates` for some tokens of a batch at a time."""
    in_blocks: ClassVar[bool] = False
    """Whether entries and activations follow from the pre-activations alone, so that runs can share a pattern."""
    dense_arrays: ClassVar[float] = 4
    """Arrays (batch, d_sae) in the products' dtype that a dense step holds at its peak."""
    d_sae: Annotated[Count, Field(ge=1, le=2**26)]

    def init(self, d_in: int, encoder_scale: float, generator: torch.Generator) -> Params:
        """Returns random decoder rows of unit norm, W_enc = encoder_scale * W_dec.T and zero biases, on the CPU.

        W_enc has the memory layout of W_dec, in which sparse steps compute its gradient.
        """
        W_dec = normalize(torch.randn(self.d_sae, d_in, generator=generator), dim=1)
        return {
            "W_enc": encoder_scale * W_dec.T,
            "b_enc": torch.zeros(self.d_sae),
            "W_dec": W_dec,
            "b_dec": torch.zeros(d_in),
        }

    def pre_acts(self, params: Params, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Computes (x - b_dec) @ W_enc + b_enc, (..., d_in) -> (..., d_sae); a transcoder subtracts b_in."""
        inputs, bias = self.encoder_input(params, x, dtype)
        return product(inputs, params["W_enc"], bias)

    def encoder_input(self, params: Params, x: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Returns W_enc's input (..., d_in), without gradient, and a bias (d_sae,) that carries b_dec's gradient."""
        inputs = (x - center(params)).to(dtype)
        if "b_in" in params:
            return inputs, params["b_enc"]
        # b_dec's gradient goes through W_enc once, here, instead of once per row of the batch. This saves a matrix
        # product in the backward pass, and x - b_dec is still rounded only after the subtraction.
        return inputs, autograd.carrying_bias(params["b_enc"], params["b_dec"], params["W_enc"])

    @property
    def num_active(self) -> float | None:
        """Active latents per token at the end of the run, if the architecture and not a penalty determines them."""
        return None

    def settings(self) -> Mapping[str, Schedule]:
        """Returns the settings that a schedule moves during the run, by name."""
        return {name: value for name, value in self if isinstance(value, Schedule)}

    def at(self, step: int, num_steps: int) -> Self:
        """Returns the architecture of one step, counted from 0, whose settings are numbers."""
        return self.with_numbers({name: schedule.at(step, num_steps) for name, schedule in self.settings().items()})

    def ended(self) -> Self:
        """Returns the architecture at the end of the run."""
        return self.with_numbers({name: schedule.end for name, schedule in self.settings().items()})

    def with_numbers(self, values: Mapping[str, float]) -> Self:
        """Returns the architecture with numbers in place of schedules."""
        return self.model_copy(update=values) if values else self

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        if cls.estimate is not Architecture.estimate and cls.near is Architecture.near:
            raise TypeError(f"{cls.__name__} overrides `estimate` without `near`, which marks where it applies")
        super().__pydantic_init_subclass__(**kwargs)

    @classmethod
    def holds(cls, name: str, methods: frozenset[str] = CHOOSING) -> bool:
        """Returns whether an attribute is true of this class.

        What a class says of its entries need not be true of a class derived from it that chooses them otherwise.
        """
        order = cls.__mro__
        definer = next(index for index, each in enumerate(order) if name in vars(each))
        return not any(methods & vars(each).keys() for each in order[:definer])

    def part(self, latents: range) -> Self | None:
        """Returns the architecture of some neighbouring latents, whose reconstructions add up; None if they do not.

        With it, a run may be split over ranks. An architecture that compares latents overrides `activate_part` too.
        """
        return None

    @property
    def can_be_split(self) -> bool:
        """True if a run may be split over ranks."""
        return self.part(range(1)) is not None and self.holds("part", COMPUTING)

    @property
    def chosen_by_mask(self) -> bool:
        """True if the active entries are those of `mask`, as many as there are."""
        return type(self).pattern is Architecture.pattern

    @property
    def estimates_slopes(self) -> bool:
        """True if training adds a straight-through estimator."""
        return type(self).near is not Architecture.near

    @property
    def held_rows(self) -> float:
        """Decoder rows per token that a dense step holds at its peak."""
        return 0

    @property
    def num_reconstructions(self) -> int:
        """Number of `reconstructions`."""
        return 1

    @abstractmethod
    def activate(self, params: Params, pre_acts: Tensor) -> Tensor:
        """Returns activations (..., d_sae), never negative, each token independently of the others."""

    def activate_training(self, params: Params, pre_acts: Tensor) -> Tensor:
        """Returns the activations of a training batch (batch, d_sae), if they differ from `activate`."""
        return self.activate(params, pre_acts)

    def activate_part(self, params: Params, pre_acts: Tensor, rivals: Rivals) -> Tensor:
        """Returns what `activate_training` would for this part of a batch's tokens and latents."""
        return self.activate_training(params, pre_acts)

    def mask(self, params: Params, pre_acts: Tensor) -> Tensor:
        """Marks the entries (batch, d_sae) that are active in training, bool."""
        if not self.sparse or self.chosen_by_mask:
            raise NotImplementedError(f"{self.name} has no sparse steps")
        pattern = self.pattern(params, pre_acts)
        return pattern.dense(pattern.ones().bool())

    def near(self, params: Params, pre_acts: Tensor) -> Tensor | None:
        """Marks the entries (batch, d_sae) whose slope is estimated, bool; None if none is."""
        return None

    def estimate(self, params: Params, near: Tensor, dtype: torch.dtype) -> StraightThrough:
        """Returns the estimator that `activate_training` adds at the entries `near` (batch, d_sae)."""
        raise NotImplementedError(f"{self.name} estimates no slopes")

    def pattern(self, params: Params, pre_acts: Tensor) -> Pattern:
        """Returns the active entries, from all pre-activations (batch, d_sae) of a sparse step."""
        return Pattern.of_mask(self.mask(params, pre_acts))

    def floor(self, params: Params, upper: Tensor, spread: Tensor) -> Tensor | None:
        """Returns what the pre-activation of an entry is at least, broadcast over (num_tokens, d_sae).

        Args:
            params: all parameters.
            upper: (num_tokens, d_sae) upper bounds of pre-activations.
            spread: (num_tokens, 1) how far below these the pre-activations are at most.

        Returns:
            None if nothing is known, so that no entry can be ruled out.
        """
        return None

    def expecting(self, params: Params, pre_acts: Tensor) -> Params:
        """Returns params with which `floor` and `candidates` fit a batch.

        Args:
            params: all parameters.
            pre_acts: (num_tokens, d_sae) pre-activations of some of the batch's tokens.
        """
        return params

    def candidates(self, params: Params, pre_acts: Tensor) -> Pattern | None:
        """Returns entries of some tokens (num_tokens, d_sae) that contain the active ones; None if all may be.

        It is called only of a class with `in_pieces`, or of one derived from it that chooses entries alike.
        """
        return self.pattern(params, pre_acts)

    def floor_of_nonzero(self, params: Params, upper: Tensor, spread: Tensor) -> Tensor | None:
        """Returns `floor` for entries where `activate` is not 0: higher, if training needs others, too."""
        return self.floor(params, upper, spread)

    def among(self, params: Params, entries: Pattern, pre_acts: Tensor) -> Tensor:
        """Returns which entries are `candidates`, if these are among them: a bool mask, or int64 indices, ascending.

        Args:
            params: all parameters.
            entries: entries of some tokens (num_tokens, d_sae).
            pre_acts: (num_entries,) their pre-activations.
        """
        candidates = self.candidates(params, entries.dense_or(pre_acts, float("-inf")))
        assert candidates is not None, "there is a floor, so few entries are candidates"
        return torch.searchsorted(entries.positions, candidates.positions)

    def near_among(self, params: Params, entries: Pattern, pre_acts: Tensor) -> Tensor | None:
        """Returns `near` if only these entries can be; arguments as for `among`."""
        return self.near(params, entries.dense_or(pre_acts, float("-inf"))) if self.estimates_slopes else None

    def undecided(self, params: Params, upper: Tensor, lower: Tensor, latents: Tensor) -> Tensor | None:
        """Marks the entries that numbers between two bounds would not all be chosen alike, or that are active, bool.

        The others' pre-activations need not be exact. None: those of all entries must be.

        Args:
            params: all parameters.
            upper: (num_entries,) upper bounds of pre-activations, at least `floor`.
            lower: (num_entries,) lower bounds.
            latents: (num_entries,) indices of their latents.
        """
        return None

    def chosen(self, candidates: Pattern, pre_acts: Tensor) -> tuple[Pattern, Tensor] | None:
        """Returns the active ones of a batch's candidates and their pre-activations (num_entries,).

        None if others may be active too.
        """
        return candidates, pre_acts

    def activate_at(self, params: Params, pre_acts: Tensor, latents: Tensor) -> Tensor:
        """Returns the activations of active entries: pre_acts (num_entries,) at the latents with these indices."""
        return self.activate(params_of(params, latents), pre_acts)

    def gate_acts(self, params: Params, pre_acts: Tensor, acts: Tensor) -> Tensor:
        """Returns the values on which sparsity penalties act, each from its pre-activation and activation; 0 of 0."""
        return acts

    def nonzero(self, params: Params, pre_acts: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the flat positions (num_entries,) where `activate` is not 0, NaN included, and its values there.

        None of them is where a pre-activation is -inf, which stands for one that cannot be active. Without it, an SAE
        is encoded by `activate`.
        """
        raise NotImplementedError(f"{self.name} is encoded by `activate`")

    def nonzero_among(self, params: Params, entries: Pattern, pre_acts: Tensor) -> tuple[Tensor, Tensor]:
        """Returns `nonzero` if only these entries can be; arguments as for `among`."""
        if not self.elementwise:
            return self.nonzero(params, entries.dense_or(pre_acts, float("-inf")))
        chosen, acts = self.nonzero(params_of(params, entries.columns), pre_acts.unsqueeze(0))  # as if of one token
        return entries.positions.index_select(0, chosen), acts

    def threshold(self, params: Params) -> Tensor | None:
        """Returns the threshold (d_sae,) that a pre-activation must exceed to be active, or None if there is none."""
        return None

    def observe(self, params: Params, acts: Tensor) -> Mapping[str, Tensor]:
        """Returns new values of the buffers after a training step with activations `acts` (batch, d_sae)."""
        return {}

    def observe_part(self, params: Params, acts: Tensor, rivals: Rivals) -> Mapping[str, Tensor]:
        """Returns what `observe` would of the whole batch, from this part's activations."""
        return self.observe(params, acts)

    def encode(self, params: Params, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Encodes x (..., d_in) -> acts (..., d_sae)."""
        return self.activate(params, self.pre_acts(params, x, dtype))

    def encode_some(self, params: Params, x: Tensor, latents: Tensor) -> Tensor:
        """Encodes x (..., d_in) -> acts (..., num_latents) at these indices; computes only these if `elementwise`."""
        if not self.elementwise:
            return self.encode(params, x)[..., latents]
        narrow = params_of(params, latents)
        centers = {name: params[name] for name in PER_CHANNEL & params.keys()}
        return self.encode({**narrow, "W_enc": params["W_enc"][:, latents], **centers}, x)

    def decode(self, params: Params, acts: Tensor) -> Tensor:
        """Computes acts @ W_dec + b_dec, in the parameters' precision, (..., d_sae) -> (..., d_in)."""
        W_dec, b_dec = params["W_dec"], params["b_dec"]
        if acts.dtype == b_dec.dtype:
            return linear(acts, W_dec.T, b_dec)
        return (acts @ W_dec.to(acts.dtype)).to(b_dec.dtype) + b_dec

    def reconstructions(self, params: Params, pre_acts: Tensor, acts: Tensor) -> tuple[Tensor, ...]:
        """Returns all reconstructions (batch, d_in) whose errors the training loss adds up; the last is x_hat."""
        return (self.decode(params, acts),)

    def entry_reconstructions(
        self, params: Params, pattern: Pattern, pre_acts: Tensor, acts: Tensor
    ) -> tuple[Tensor, ...]:
        """Returns `reconstructions` in a sparse step, from what its entries hold: pre_acts and acts (num_entries,)."""
        return (autograd.decode(pattern, acts, params["W_dec"]) + params["b_dec"],)

    def inference(self, params: Params) -> tuple[Architecture, Params]:
        """Returns the SAE to save: an architecture whose `activate` needs no batch, and its parameters."""
        return self.ended(), params

    def training_params(self, sae: Architecture, params: Params) -> Params | None:
        """Inverts `inference`: returns the parameters of which that gives `sae` and `params`, or None if none does."""
        return params if sae.name == self.name else None

    def unscaled(self, params: Params, scale: float) -> Params:
        """Returns parameters for raw x that are equivalent to `params` for scale * x.

        pre_acts(scale * x) = scale * ((x - b_dec / scale) @ W_enc + b_enc / scale), and the activation commutes with
        a positive factor: biases (and a member's thresholds) are divided, W_enc and W_dec stay the same.
        """
        return {**params, "b_enc": params["b_enc"] / scale, "b_dec": params["b_dec"] / scale}


def center(params: Params) -> Tensor:
    """Returns what an encoder subtracts from x, (d_in,), without gradient."""
    return params["b_in" if "b_in" in params else "b_dec"].detach()


def product(inputs: Tensor, W_enc: Tensor, bias: Tensor) -> Tensor:
    """Computes inputs @ W_enc + bias in the dtype of `inputs`, (..., d_in) -> (..., d_sae)."""
    return linear(inputs, W_enc.T.to(inputs.dtype), bias.to(inputs.dtype))


def params_of(params: Params, latents: Tensor) -> Params:
    """Returns the scalar parameters (biases, thresholds) of the latents with these indices."""
    return {name: value[latents] for name, value in params.items() if value.dim() == 1 and name not in PER_CHANNEL}


def entries_above(pre_acts: Tensor, threshold: Tensor | float) -> tuple[Tensor, Tensor]:
    """Returns the flat positions (num_entries,) of pre-activations above a threshold, or NaN, and their values."""
    positions = true_positions((pre_acts <= threshold).logical_not_())
    return positions, pre_acts.flatten().index_select(0, positions)
