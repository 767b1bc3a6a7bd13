"""An SAE attached to a model: its latents are read, steered, ablated, spliced in and attributed in forward passes.

A forward pass replaces x at the hook by x + decode(edited acts) - decode(acts): what the SAE does not explain stays.
With `splice` that part goes too, and the model reads decode(edited acts). A transcoder reads x at its hook, and what is
replaced so is y at its target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from saepipe.data.errors import ConfigError
from saepipe.harvest.hook_point import HookPoint
from saepipe.harvest.site_hook import hook_site
from saepipe.harvest.sites import width_of
from saepipe.train.rundir.load import SAE

_Edit = Callable[[Tensor], None]
"""Changes acts (batch, seq, d_sae) in place."""


class Attached:
    """Latents of one SAE in one model; a context manager, outside of which the model is as it was.

    Each call of the model inside the context sets `acts` and applies the edits made so far, in their order.
    """

    acts: Tensor | None = None
    """(batch, seq, d_sae) float32 of the last forward pass, before the edits; 0 at skipped tokens."""

    def __init__(
        self, sae: SAE, model: PreTrainedModel, hook: HookPoint, skip_ids: Sequence[int] | None = None
    ) -> None:
        self.target = HookPoint.parse(sae.target) if sae.target else hook
        for verb, at, own in (("reads", hook, sae.d_in), ("writes", self.target, sae.d_out)):
            if (width := width_of(model, at)) != own:
                hint = "attach it to the model that it was trained on"
                raise ConfigError(
                    f"the SAE {verb} activations of width {own}, the model has {width} at {at}", hint=hint
                )
        self.sae, self.model, self.hook = sae, model, hook
        self.skip_ids = sorted(_special_ids(model) if skip_ids is None else skip_ids)
        self._edits: list[_Edit] = []
        self._spliced = False
        self._handles = ExitStack()
        self._skip: Tensor | None = None  # of a skip transcoder, in a pass that it is spliced into
        self._ids: Tensor | None = None  # of the forward pass in progress, until it reaches the hook
        self._in_pass: tuple[Tensor, Tensor, Tensor] | None = None  # where it reads, acts, edited acts; until written
        self._at_hook: tuple[Tensor, Tensor] | None = None  # x as the model reads it, and the edited acts

    def __enter__(self) -> Self:
        embedding: Any = self.model.get_input_embeddings()
        with ExitStack() as handles:
            if self.target == self.hook:
                handles.enter_context(hook_site(self.model, self.hook, lambda x: self._write(self._read(x))))
            else:
                handles.enter_context(hook_site(self.model, self.hook, self._read))
                handles.enter_context(hook_site(self.model, self.target, self._write))
            handles.enter_context(embedding.register_forward_pre_hook(self._note_ids))
            self._handles = handles.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._handles.close()
        self._ids = self._in_pass = self._at_hook = None

    def steer(self, latent: int, strength: float) -> Self:
        """Adds `strength`, in units of the latent's activation, at every token: x + strength * W_dec[latent]."""
        return self._edit([latent], lambda acts, index: acts[..., index].add_(strength))

    def clamp(self, latent: int, value: float) -> Self:
        """Sets a latent's activation to `value` at every token."""
        return self._edit([latent], lambda acts, index: torch.full_like(acts[..., index], value))

    def ablate(self, latents: int | Iterable[int]) -> Self:
        """Sets activations to 0, so that their part of the reconstruction is taken out of x."""
        listed = [latents] if isinstance(latents, int) else list(latents)
        return self._edit(listed, lambda acts, index: torch.zeros_like(acts[..., index]))

    def splice(self) -> Self:
        """Lets the model read the reconstruction, as in `core`'s CE with the SAE, instead of x."""
        self._spliced = True
        return self

    def clear(self) -> Self:
        """Takes back all edits."""
        self._edits, self._spliced = [], False
        return self

    def attribute(self, scalar: Tensor) -> Tensor:
        """Estimates what ablating each latent at each token would take from a scalar of the last forward pass.

        acts * d scalar / d acts, with the SAE's error held constant: attribution patching (Nanda, 2023; Syed et al.,
        arXiv:2310.10348) of latents, as Marks et al. (arXiv:2403.19647). It is exact where the scalar is linear.

        Args:
            scalar: such as a logit, or a difference of two, computed from the model's output with gradients on.

        Returns:
            (batch, seq, d_sae) float32.

        Raises:
            ConfigError: if no gradient leads from the scalar to the hook.
        """
        if self._at_hook is None or not scalar.requires_grad:
            hint = "call the model inside the context and outside of torch.no_grad(), then use its output"
            raise ConfigError("there is no gradient from the scalar to the hook", hint=hint)
        x, acts = self._at_hook
        (gradient,) = torch.autograd.grad(scalar, x, retain_graph=True)
        return acts * (gradient.to(acts) @ self.sae.W_dec.T)

    def _edit(self, latents: Sequence[int], change: Callable[[Tensor, Tensor], Tensor]) -> Self:
        for latent in latents:
            if not 0 <= latent < self.sae.d_sae:
                raise ConfigError(f"there is no latent {latent}", hint=f"latents 0 to {self.sae.d_sae - 1:,}")
        self._edits.append(partial(_change_at, index=torch.tensor(latents, device=self.sae.device), change=change))
        return self

    def _note_ids(self, _: Any, args: tuple[Any, ...]) -> None:
        self._ids = args[0] if args else None

    def _read(self, x: Tensor) -> Tensor:
        """Encodes x (batch, seq, d_in) at the hook and edits the activations; returns x as it is."""
        read, raw = self._read_at(x), x.to(self.sae.device, torch.float32)
        acts = torch.where(read, self.sae.encode(raw), 0.0)
        edited = acts.clone()
        for edit in self._edits:
            edit(edited)
        self.acts = acts.detach()
        self._in_pass = read, acts, torch.where(read, edited, 0.0)
        self._skip = self.sae.skip(raw) if self._spliced else None
        return x

    def _write(self, y: Tensor) -> Tensor:
        """Replaces y (batch, seq, d_out) at the target, and keeps what `attribute` needs."""
        if self._in_pass is None:
            hint = "attach a transcoder whose target comes after what it reads"
            raise ConfigError(f"the model reaches {self.target} before {self.hook}", hint=hint)
        (read, acts, edited), self._in_pass = self._in_pass, None
        replaced = y
        if self._edits or self._spliced:
            raw, y_hat = y.to(self.sae.device, torch.float32), self.sae.decode(edited)
            if self._spliced and self._skip is not None:
                y_hat = y_hat + self._skip
            replaced = torch.where(read, y_hat if self._spliced else raw + y_hat - self.sae.decode(acts), raw).to(y)
        if torch.is_grad_enabled() and not replaced.requires_grad:
            replaced = replaced.detach().requires_grad_()
        self._at_hook = (replaced, edited.detach()) if replaced.requires_grad else None
        return replaced

    def _read_at(self, x: Tensor) -> Tensor:
        """Returns where the SAE reads x, (batch, seq, 1) bool: everywhere if the pass began with embeddings."""
        ids, self._ids = self._ids, None
        if ids is None or ids.shape != x.shape[:2]:
            return torch.ones(*x.shape[:2], 1, dtype=torch.bool, device=self.sae.device)
        skipped = torch.isin(ids, torch.tensor(self.skip_ids, dtype=ids.dtype, device=ids.device))
        return ~skipped.unsqueeze(-1).to(self.sae.device)


def _change_at(acts: Tensor, index: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> None:
    acts[..., index] = change(acts, index)


def _special_ids(model: PreTrainedModel) -> set[int]:
    """Returns the ids of BOS, EOS and padding that the model's config names."""
    config = model.config.get_text_config()
    named = [getattr(config, f"{kind}_token_id", None) for kind in ("bos", "eos", "pad")]
    return {index for value in named if value is not None for index in (value if isinstance(value, list) else [value])}
