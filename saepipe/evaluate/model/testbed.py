"""Testbed for the SAEs of one hook: the held-out part of their cache, and the model that made it.

Transcoders have a testbed of their own, whose target is the hook that they reconstruct. That of crosscoders reads
several hooks side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from saepipe.data.cache.cache import Cache
from saepipe.data.cache.joint_hooks import hooks_of
from saepipe.data.cache.paired_cache import PairedCache, is_other, own_name
from saepipe.data.errors import CorruptDataError
from saepipe.evaluate.model.config import Mode
from saepipe.evaluate.model.kept_work import KeptWork
from saepipe.evaluate.model.next_token import predict
from saepipe.evaluate.model.upper_layers import UpperLayers, upper_layers
from saepipe.evaluate.sae.subject import Subject
from saepipe.harvest.capture import capture
from saepipe.harvest.hook_point import HookPoint
from saepipe.harvest.model import LanguageModel
from saepipe.harvest.sites import width_of
from saepipe.train.sae.transcoder import split_rows

_LARGEST_GAP = 0.1
"""Nats by which the upper layers' loss may differ from the full forward's; bfloat16 storage costs a few thousandths."""


@dataclass(frozen=True)
class Batch:
    """Some held-out contexts, on the device of the evaluation."""

    ids: torch.Tensor
    """(batch, seq) int64 token ids"""
    keep: torch.Tensor
    """(batch, seq) bool: ordinary tokens, at which the SAE acts"""
    documents: torch.Tensor
    """(batch, seq) int64: index of the document, below num_documents"""
    x: torch.Tensor
    """(batch, seq, d_in) float32: as stored (bfloat16 values), or fresh from the model"""
    target: torch.Tensor
    """(batch, seq, d_out) float32: what is reconstructed; x itself, but for transcoders"""

    @property
    def scored(self) -> torch.Tensor:
        """(batch, seq) bool: positions whose input and target are ordinary tokens; never the last of a window."""
        return self.keep & self.has_target & self.keep.roll(-1, dims=1)

    @property
    def has_target(self) -> torch.Tensor:
        """(seq,) bool: all positions but the last."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) < self.ids.shape[1] - 1

    def spliced(self, x_hat: torch.Tensor | float) -> torch.Tensor:
        """Returns the target (batch, seq, d_out) with the kept positions replaced by x_hat.

        That is (num_kept, d_out), one vector (d_out,), or a number.
        """
        spliced = self.target.clone()
        spliced[self.keep] = x_hat
        return spliced


@dataclass
class Passes:
    """Numbers of sequences that went through the model: whole, up to the hook, and from the hook upward."""

    full: int = 0
    lower: int = 0
    upper: int = 0

    def __str__(self) -> str:
        return f"{self.full:,} whole, {self.lower:,} up to the hook, {self.upper:,} from the hook upward"


@dataclass(frozen=True)
class Testbed:
    """One hook of one cache, or two. Every SAE trained there is judged on the same contexts and model passes."""

    __test__ = False  # not a pytest class, despite its name

    cache: Cache
    hook: str
    """where the encoder reads: a hook, or the joint name of a crosscoder's"""
    load: Callable[[], LanguageModel]
    """loads the model on first use and keeps it; never called if all of the model's work is stored"""
    kept_work: KeptWork
    """work of this model at this hook"""
    batch_size: int
    """contexts per batch"""
    device: torch.device
    mode: Mode = "fixed"
    live: bool = False
    """whether held-out activations come from the model, unrounded, instead of from the cache"""
    baseline: Subject | None = None
    """the SAE that metrics with a comparison compare the others with"""
    target: str | None = None
    """what transcoders reconstruct; None: what they read, as SAEs"""
    load_other: Callable[[], LanguageModel] | None = None
    """loads the model of the other cache, if crosscoders read two"""
    dtype: str = "float32"
    """dtype of the model"""
    passes: Passes = field(default_factory=Passes)

    @property
    def language_model(self) -> LanguageModel:
        return self.load()

    @property
    def hooks(self) -> list[str]:
        """Hooks whose activations a row holds side by side."""
        return self.read_hooks if self.target is None else [*self.read_hooks, self.target]

    @property
    def read_hooks(self) -> list[str]:
        """Hooks that the encoder reads: several, side by side, of a crosscoder."""
        return hooks_of(self.hook)

    @property
    def is_of_crosscoders(self) -> bool:
        """True if what is trained here reads and reconstructs several hooks."""
        return self.target is None and len(self.read_hooks) > 1

    @property
    def reads_two_models(self) -> bool:
        """True if some hooks are another model's, in a cache of its own."""
        return isinstance(self.cache, PairedCache)

    def at_target(self, target: str) -> Testbed:
        """Returns the testbed of the transcoders that crosscoders are at one of their hooks."""
        assert self.load_other is not None or not is_other(target), "there is one model"
        return replace(self, target=target, load=self.load_other if is_other(target) else self.load)  # type: ignore[arg-type]

    @property
    def written(self) -> str:
        """Hook whose activations are reconstructed; of a crosscoder the joint name of all."""
        return self.target or self.hook

    @property
    def d_in(self) -> int:
        """Width of what the encoder reads."""
        return sum(map(self._width, self.read_hooks))

    @property
    def row_width(self) -> int:
        """Width of the rows of `capture`."""
        return sum(map(self._width, self.hooks))

    def split(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Splits rows (..., row_width) into what is read and what is reconstructed; for SAEs, both are the rows."""
        if self.target is None:
            return rows, rows
        return split_rows(rows, sum(self.cache.widths[hook] for hook in self.read_hooks))

    def _width(self, hook: str) -> int:
        return width_of(self.language_model.model, HookPoint.parse(hook))

    @torch.no_grad()
    def capture(self, ids: torch.Tensor) -> torch.Tensor:
        """Returns rows of activations at the hooks, (batch, seq) -> (batch, seq, row_width) in the model's dtype.

        Pad on the right: attention is causal, so earlier tokens do not see the padding.
        """
        self.passes.lower += len(ids)
        hooks = self.hooks
        captured = capture(self.language_model.model, ids, [HookPoint.parse(hook) for hook in dict.fromkeys(hooks)])
        return captured[hooks[0]] if len(hooks) == 1 else torch.cat([captured[hook] for hook in hooks], dim=-1)

    @contextmanager
    def upper_layers(self) -> Iterator[UpperLayers]:
        """Yields the model from the reconstructed hook upward; see `saepipe.evaluate.model.upper_layers`."""
        with upper_layers(self.language_model.model, HookPoint.parse(own_name(self.written))) as run_upper:

            def counted(ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
                self.passes.upper += len(ids)
                return run_upper(ids, x)

            yield counted

    def num_contexts(self, limit: int | None) -> int:
        """Returns the number of held-out contexts, at most `limit`."""
        available = len(self.cache.heldout.contexts)
        return min(available, limit or available)

    def num_documents(self, num_contexts: int) -> int:
        return len(np.unique(self.cache.heldout.documents[:num_contexts]))

    def batches(self, num_contexts: int) -> Iterator[Batch]:
        """Yields the first `num_contexts` held-out contexts, in order."""
        heldout = self.cache.heldout
        _, index = np.unique(heldout.documents[:num_contexts], return_inverse=True)
        documents = index.reshape(num_contexts, -1)
        for start in range(0, num_contexts, self.batch_size):
            stop = min(start + self.batch_size, num_contexts)
            ids = torch.as_tensor(heldout.contexts[start:stop].astype(np.int64), device=self.device)
            rows = self.capture(ids) if self.live else self._stored_rows(start, stop)
            x, target = self.split(rows.to(self.device, torch.float32))
            yield Batch(
                ids=ids,
                keep=torch.as_tensor(np.array(heldout.keep[start:stop]), device=self.device),
                documents=torch.as_tensor(documents[start:stop], device=self.device),
                x=x,
                target=target,
            )

    def _stored_rows(self, start: int, stop: int) -> torch.Tensor:
        parts = [self.cache.heldout.activations(hook, start, stop) for hook in self.hooks]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    @torch.no_grad()
    def upper_layers_gap(self) -> float:
        """Returns the mean CE of the first context by the upper layers, less that by the full forward, in nats.

        Raises:
            CorruptDataError: if it is larger than storing activations as bfloat16 explains, so that this cannot be
                the model that made the cache.
        """
        batch = next(self.batches(1))
        self.passes.full += 1
        full = self.language_model.model(input_ids=batch.ids, use_cache=False).logits
        with self.upper_layers() as run_upper:
            logits = run_upper(batch.ids, batch.target)
        gap = float((predict(logits, batch.ids, full).ce - predict(full, batch.ids, full).ce)[:, :-1].mean())
        if not abs(gap) <= _LARGEST_GAP:
            raise CorruptDataError(
                f"fed {self.written} from {self.cache.path}, the model's upper layers have a loss on the first held-"
                f"out context that is {gap:+.3f} nats off its full forward (allowed {_LARGEST_GAP})",
                hint="evaluate with the model, the revision and the attention that made the cache",
            )
        return gap
