"""Where SAEs of one hook are judged: the held-out part of their cache, and the model that made it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from saepipe.data.cache.cache import Cache
from saepipe.data.errors import CorruptDataError
from saepipe.evaluate.model.config import Mode
from saepipe.evaluate.model.kept_work import Artifacts
from saepipe.evaluate.model.next_token import predict
from saepipe.evaluate.model.upper_layers import Resume, resumed
from saepipe.evaluate.sae.subject import Subject
from saepipe.harvest.capture import capture
from saepipe.harvest.hooks import HookPoint
from saepipe.harvest.model import LanguageModel

_LARGEST_GAP = 0.1
"""Nats by which the resumed model may differ from its own full forward; bfloat16 storage costs a few thousandths."""


@dataclass(frozen=True)
class Batch:
    """Some held-out contexts, on the device of the evaluation."""

    ids: torch.Tensor
    """(batch, seq) int64 token ids"""
    keep: torch.Tensor
    """(batch, seq) bool: ordinary tokens, where the SAE acts"""
    documents: torch.Tensor
    """(batch, seq) int64: index of the document, below num_documents"""
    x: torch.Tensor
    """(batch, seq, d_in) float32: as stored (bfloat16 values), or as the model gives it now"""

    @property
    def scored(self) -> torch.Tensor:
        """(batch, seq) bool: positions whose input and target are ordinary tokens; never the last of a window."""
        return self.keep & self.has_target & self.keep.roll(-1, dims=1)

    @property
    def has_target(self) -> torch.Tensor:
        """(seq,) bool: all positions but the last."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) < self.ids.shape[1] - 1

    def spliced(self, x_hat: torch.Tensor | float) -> torch.Tensor:
        """(batch, seq, d_in): x with the kept positions replaced by x_hat (num_kept, d_in) or by a number."""
        x = self.x.clone()
        x[self.keep] = x_hat
        return x


@dataclass
class Passes:
    """How many sequences have gone through the model: whole, up to the hook, and from the hook upward."""

    full: int = 0
    lower: int = 0
    upper: int = 0

    def __str__(self) -> str:
        return f"{self.full:,} whole, {self.lower:,} up to the hook, {self.upper:,} from the hook upward"


@dataclass(frozen=True)
class Testbed:
    """One hook of one cache. Every SAE trained there is judged on the same contexts and by the same model passes."""

    __test__ = False  # the name is not pytest's

    cache: Cache
    hook: str
    load: Callable[[], LanguageModel]
    """loads the model when it is first needed, and keeps it; where all its work is stored, it is never called"""
    artifacts: Artifacts
    """work of this model at this hook"""
    batch_size: int
    """contexts a batch"""
    device: torch.device
    mode: Mode = "fixed"
    live: bool = False
    """whether held-out activations come from the model, unrounded, instead of from the cache"""
    baseline: Subject | None = None
    """what the others are compared with, by metrics that compare"""
    dtype: str = "float32"
    """of the model"""
    passes: Passes = field(default_factory=Passes)

    @property
    def language_model(self) -> LanguageModel:
        return self.load()

    @torch.no_grad()
    def capture(self, ids: torch.Tensor) -> torch.Tensor:
        """Activations at the hook, (batch, seq) -> (batch, seq, d_in) in the model's dtype.

        Padding belongs on the right: attention is causal, so the tokens before it do not see it.
        """
        self.passes.lower += len(ids)
        return capture(self.language_model.model, ids, [HookPoint.parse(self.hook)])[self.hook]

    @contextmanager
    def resumed(self) -> Iterator[Resume]:
        """The model from the hook upward; see `saepipe.evaluate.model.upper_layers`."""
        with resumed(self.language_model.model, HookPoint.parse(self.hook)) as resume:

            def counted(ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
                self.passes.upper += len(ids)
                return resume(ids, x)

            yield counted

    def num_contexts(self, wanted: int | None) -> int:
        """How many held-out contexts there are, at most `wanted`."""
        found = len(self.cache.heldout.contexts)
        return min(found, wanted or found)

    def num_documents(self, num_contexts: int) -> int:
        return len(np.unique(self.cache.heldout.documents[:num_contexts]))

    def batches(self, num_contexts: int) -> Iterator[Batch]:
        """The first `num_contexts` held-out contexts, in order."""
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
    def resume_gap(self) -> float:
        """Nats by which the mean CE of the first context differs between the full forward and the resumed one.

        Raises:
            CorruptDataError: if it is more than storing activations as bfloat16 explains, so that the model at hand
                is not the one that made the cache.
        """
        batch = next(self.batches(1))
        self.passes.full += 1
        full = self.language_model.model(input_ids=batch.ids, use_cache=False).logits
        with self.resumed() as resume:
            logits = resume(batch.ids, batch.x)
        gap = float((predict(logits, batch.ids, full).ce - predict(full, batch.ids, full).ce)[:, :-1].mean())
        if not abs(gap) <= _LARGEST_GAP:
            raise CorruptDataError(
                f"resumed at {self.hook} from {self.cache.path}, the model's loss on the first held-out context is "
                f"{gap:+.3f} nats off its own full forward (allowed {_LARGEST_GAP})",
                hint="evaluate with the model, the revision and the attention that made the cache",
            )
        return gap
