"""Held-out text of a testbed as this metric reads it: several times over, and only its kept tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.metrics.stability.chance_dictionaries import Axes
from saepipe.evaluate.metrics.stability.latent_acts import LatentActs
from saepipe.evaluate.metrics.stability.principal_axes import Moments
from saepipe.evaluate.model.testbed import Batch, Testbed
from saepipe.train.sae.sparse_acts import SparseActs


@dataclass(frozen=True)
class HeldoutText:
    testbed: Testbed
    num_contexts: int
    progress: Progress

    @cached_property
    def axes(self) -> Axes:
        """Computed in one pass."""
        read, written = Moments(), Moments()
        for batch in self._batches("covariance"):
            read.add(batch.x[batch.keep])
            if self.testbed.target:
                written.add(batch.target[batch.keep])
        axes = read.principal_axes()
        return Axes(axes, written.principal_axes() if self.testbed.target else axes)

    def encode(self, encoders: Sequence[Callable[[Tensor], SparseActs]], task: str) -> list[LatentActs]:
        """Encodes the kept tokens by each of the encoders, rows x (num_tokens, d_in) -> acts, in one pass.

        Raises:
            ConfigError: if no token is kept.
        """
        parts: list[list[SparseActs]] = [[] for _ in encoders]
        for batch in self._batches(task):
            x = batch.x[batch.keep]
            for encode, part in zip(encoders, parts, strict=True):
                part.append(encode(x))
        acts = [LatentActs.of(part) for part in parts]
        if acts[0].num_tokens == 0:
            raise ConfigError("the held-out contexts contain only special tokens", hint="harvest more held-out text")
        return acts

    def _batches(self, task: str) -> Iterator[Batch]:
        self.progress.start(f"stability at {self.testbed.hook} ({task})", self.num_contexts, "contexts")
        try:
            for batch in self.testbed.batches(self.num_contexts):
                yield batch
                self.progress.advance(len(batch.ids))
        finally:
            self.progress.finish()
