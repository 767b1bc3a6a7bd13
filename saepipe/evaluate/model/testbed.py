"""Testbed for the SAEs of one hook: the held-out part of their cache, and the model that made it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from saepipe.data.cache.cache import Cache
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

    @property
    def scored(self) -> torch.Tensor:
        """(batch, seq) bool: positions whose input and target are ordinary tokens; never the last of a window."""
        return self.keep & self.has_target & self.keep.roll(-1, dims=1)

    @property
    def has_target(self) -> torch.Tensor:
        """(seq,) bool: all positions but the last."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) < self.ids.shape[1] - 1

    def spliced(self, x_hat: torch.Tensor | float) -> torch.Tensor:
        """Returns x (batch, seq, d_in) with the kept positions replaced by x_hat (num_kept, d_in) or by a number."""
        x = self.x.clone()
        x[self.keep] = x_hat
        return x


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
    """One hook of one cache. Every SAE trained there is judged on the same contexts and by the same model passes."""

    __test__ = False  # not a pytest class, despite its name

    cache: Cache
    hook: str
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
    dtype: str = "float32"
    """dtype of the model"""
    passes: Passes = field(default_factory=Passes)

    @property
    def language_model(self) -> LanguageModel:
        return self.load()

    @property
    def d_in(self) -> int:
        """Width of the activations at the hook."""
        return width_of(self.language_model.model, HookPoint.parse(self.hook))

    @torch.no_grad()
    def capture(self, ids: torch.Tensor) -> torch.Tensor:
        """Returns activations at the hook, (batch, seq) -> (batch, seq, d_in) in the model's dtype.

        Pad on the right: attention is causal, so earlier tokens do not see the padding.
        """
        self.passes.lower += len(ids)
        return capture(self.language_model.model, ids, [HookPoint.parse(self.hook)])[self.hook]

    @contextmanager
    def upper_layers(self) -> Iterator[UpperLayers]:
        """Yields the model from the hook upward; see `saepipe.evaluate.model.upper_layers`."""
        with upper_layers(self.language_model.model, HookPoint.parse(self.hook)) as run_upper:

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
            x = self.capture(ids) if self.live else heldout.activations(self.hook, start, stop)
            yield Batch(
                ids=ids,
                keep=torch.as_tensor(np.array(heldout.keep[start:stop]), device=self.device),
                documents=torch.as_tensor(documents[start:stop], device=self.device),
                x=x.to(self.device, torch.float32),
            )

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
            logits = run_upper(batch.ids, batch.x)
        gap = float((predict(logits, batch.ids, full).ce - predict(full, batch.ids, full).ce)[:, :-1].mean())
        if not abs(gap) <= _LARGEST_GAP:
            raise CorruptDataError(
                f"fed {self.hook} from {self.cache.path}, the model's upper layers have a loss on the first held-out "
                f"context that is {gap:+.3f} nats off its full forward (allowed {_LARGEST_GAP})",
                hint="evaluate with the model, the revision and the attention that made the cache",
            )
        return gap
