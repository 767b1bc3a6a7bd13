"""The n-th decoder projection of each SAE on a sample of the held-out tokens, those of evenly spread contexts."""

from __future__ import annotations

import torch
from torch import Tensor

from saepipe.evaluate.model.testbed import Batch, Testbed
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.stats.decoder_projections import nth_decoder_projection
from saepipe.evaluate.stats.intervals import Estimate

NUM_POSITIONS = 2048
"""Positions of the sampled contexts, at least, if there are as many."""


class ProjectionSample:
    """Activations of the sampled tokens, collected batch by batch; they do not depend on the size of the batches."""

    def __init__(self, testbed: Testbed, num_contexts: int) -> None:
        self._of_saes = testbed.target is None and not testbed.is_of_crosscoders
        num_positions = num_contexts * testbed.cache.heldout.contexts.shape[1]
        self._every = max(1, num_positions // NUM_POSITIONS)
        self._num_seen = 0
        self._rows: list[Tensor] = []

    def add(self, batch: Batch) -> None:
        """Collects the kept tokens of the contexts whose turn it is."""
        index = torch.arange(self._num_seen, self._num_seen + len(batch.ids), device=batch.keep.device)
        if self._of_saes:
            self._rows.append(batch.x[batch.keep & (index % self._every == 0).unsqueeze(1)])
        self._num_seen += len(batch.ids)

    def measure(self, subject: Subject) -> float | Estimate:
        """Returns the projection of one SAE; undefined for transcoders and crosscoders."""
        if not self._of_saes:
            return Estimate(None, reason="the proxy is defined for SAEs, which write what they read")
        x = torch.cat(self._rows)
        if len(x) == 0:
            return Estimate(None, reason="the sampled contexts contain only special tokens")
        value = nth_decoder_projection(x - subject.without_latents(x), subject.sae.W_dec)
        return Estimate(None, reason="no decoder row has a direction") if value is None else value
