"""The language model in training: what the KL tail of a run asks of it (`saepipe.train.step.kl_tail`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from saepipe.data.cache.cache import Cache
from saepipe.data.cache.layout import Layout
from saepipe.data.cache.mapped_rows import MappedRows
from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.model.config import ModelSettings
from saepipe.evaluate.model.next_token import predict
from saepipe.evaluate.model.testbed import Batch, Passes, Testbed
from saepipe.evaluate.model.testbeds import Testbeds


class TailModels:
    """Opens models of caches; a model is loaded once for all hooks of its cache."""

    def __init__(self, device: torch.device, progress: Progress) -> None:
        self._testbeds = Testbeds(ModelSettings(device=str(device)), Passes(), progress)

    def at(self, cache: Cache, hook: str, target: str | None) -> WindowsModel:
        """Loads the model that made the cache, and checks that it can run from the hook, or the target, upward.

        Raises:
            ConfigError: if the cache has no contexts, its model's name now leads to another, or it lacks the hook.
            CorruptDataError: if the upper layers' loss on held-out text is not the whole model's.
            SaepipeError: if the model cannot be loaded here.
        """
        if not cache.attributes.get("num_contexts"):
            raise ConfigError(f"{cache.path} has no token ids of its training rows", hint="harvest it again")
        testbed = self._testbeds.at(cache, hook, target)
        if cache.attributes["num_heldout_contexts"]:
            testbed.upper_layers_gap()
        with testbed.upper_layers():
            return WindowsModel(testbed, cache.array(Layout.contexts("train")), cache.array(Layout.keep("train")))


@dataclass(frozen=True)
class WindowsModel:
    """The language model that made a cache, over the cache's training windows."""

    testbed: Testbed
    contexts: MappedRows
    """(num_windows, context_size) token ids"""
    keep: MappedRows
    """(num_windows, context_size) bool: ordinary tokens"""

    @property
    def num_windows(self) -> int:
        return self.contexts.num_rows

    @torch.no_grad()
    def clean(self, numbers: Sequence[int]) -> CleanPass:
        """Runs the model up to the hook, then from there upward, over the windows with these numbers."""
        index, testbed = np.asarray(numbers), self.testbed
        ids = torch.from_numpy(self.contexts.take(index).astype(np.int64)).to(testbed.device)
        keep = torch.from_numpy(self.keep.take(index)).to(testbed.device)
        x, target = testbed.split(testbed.capture(ids).float())
        batch = Batch(ids, keep, documents=torch.zeros_like(ids), x=x, target=target)
        with testbed.upper_layers() as upper_layers:
            return CleanPass(testbed, batch, upper_layers(ids, target))


@dataclass(frozen=True)
class CleanPass:
    """Some training windows, with the clean model's predictions on them."""

    testbed: Testbed
    batch: Batch
    logits: torch.Tensor
    """(batch, seq, vocab) in the model's dtype"""

    @property
    def x(self) -> torch.Tensor:
        """(num_kept, d_in) float32: fresh from the model, so not rounded as stored rows are"""
        return self.batch.x[self.batch.keep]

    def kl(self, x_hat: torch.Tensor) -> torch.Tensor:
        """Returns the mean KL over the positions that `core` scores, (), differentiable in x_hat (num_kept, d_out)."""
        ids = self.batch.ids
        with self.testbed.upper_layers() as upper_layers:
            spliced = upper_layers(ids, self.batch.spliced(x_hat))
        return predict(spliced, ids, self.logits).kl[self.batch.scored].mean()
