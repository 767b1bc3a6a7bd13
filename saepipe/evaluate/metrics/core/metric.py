"""Core: reconstruction, sparsity, and what the model loses when it reads the reconstruction.

Formulas, masks and differences from the reference (SAEBench 0.6.0): docs/metrics/core.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from saepipe.data.config.base import Count
from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.figure_specs import CORE_FIGURES, FigureSpec
from saepipe.evaluate.metrics.base import Measurement, Metric
from saepipe.evaluate.metrics.core.accumulate import Accumulator, FixedAccumulator, ReferenceAccumulator
from saepipe.evaluate.metrics.core.model_losses import batches_with_progress, losses_work, model_losses
from saepipe.evaluate.metrics.core.over_hooks import over_hooks
from saepipe.evaluate.metrics.core.saebench_formulas import ignored_ids
from saepipe.evaluate.model.kept_work import Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.firing import weight_figures_bytes
from saepipe.evaluate.sae.reconstruction import encoding_bytes
from saepipe.evaluate.sae.subject import Subject

_BATCHES_PER_SCORED_BATCH = 11
"""SAEBench's own scripts use 200 batches for reconstruction and the next 2,000 for the rest: one in 11."""


class Core(Metric):
    """Settings of `core`. It loops over batches, then SAEs, so that all SAEs share the clean pass of a batch."""

    name: Literal["core"] = "core"
    num_contexts: Count | None = Field(default=None, gt=0)
    """Held-out contexts to use; null: all."""
    reconstruction_batches: Count | None = Field(default=None, gt=0)
    """Mode reference only: number of batches for CE and KL; the others are for the rest. null: one in eleven."""
    exclude_special_tokens: bool = True
    """Mode reference only: whether BOS, EOS and pad keep their activations; if not, the SAE replaces those too."""
    runs_texts: ClassVar[bool] = False
    eval_type_id: ClassVar[str] = "core"
    version: ClassVar[int] = 2
    detail_bytes: ClassVar[int] = 5000
    shown: ClassVar[Mapping[str, FigureSpec]] = CORE_FIGURES

    def held_bytes(self, d_in: int, d_sae: int, testbed: Testbed) -> int:
        return max(encoding_bytes(d_sae), weight_figures_bytes(d_in, d_sae), self.detail_bytes * d_sae)

    def works(self, testbed: Testbed) -> list[Work]:
        scored = self._scored_contexts(testbed)
        return [losses_work(each, scored) for each in by_hook(testbed)]

    def measure(self, subjects: Sequence[Subject], testbed: Testbed, progress: Progress) -> list[Measurement]:
        if not testbed.is_of_crosscoders:
            return self._measure(subjects, testbed, progress)
        views = [
            self._measure([subject.at_hook(str(view.target)) for subject in subjects], view, progress)
            for view in by_hook(testbed)
        ]
        return [over_hooks(subject, parts) for subject, *parts in zip(subjects, *views, strict=True)]

    @torch.no_grad()
    def _measure(self, subjects: Sequence[Subject], testbed: Testbed, progress: Progress) -> list[Measurement]:
        num_contexts, scored = testbed.num_contexts(self.num_contexts), self._scored_contexts(testbed)
        accumulators = self._accumulators(subjects, testbed, progress)
        num_done = 0
        for batch in batches_with_progress(testbed, num_contexts, progress, f"SAEs: {len(subjects)}"):
            with testbed.upper_layers() as upper_layers:
                clean = upper_layers(batch.ids, batch.target) if num_done < scored else None
                for accumulator in accumulators:
                    accumulator.add(batch, clean, upper_layers)
                del clean  # frees the logits before those of the next batch are allocated
            num_done += len(batch.ids)
        eval_config = self._eval_config(testbed)
        return [replace(accumulator.measurement(), eval_config=eval_config) for accumulator in accumulators]

    def _accumulators(self, subjects: Sequence[Subject], testbed: Testbed, progress: Progress) -> list[Accumulator]:
        losses = model_losses(testbed, self._scored_contexts(testbed), progress)
        if testbed.mode == "fixed":
            num_documents = testbed.num_documents(testbed.num_contexts(self.num_contexts))
            return [FixedAccumulator(subject, losses, num_documents) for subject in subjects]
        ignored = ignored_ids(testbed.language_model).to(testbed.device)
        splice_ignored = not self.exclude_special_tokens
        return [ReferenceAccumulator(subject, losses, ignored, splice_ignored=splice_ignored) for subject in subjects]

    def _scored_contexts(self, testbed: Testbed) -> int:
        """Returns the number of contexts, from the first, that count for CE and KL."""
        num_contexts = testbed.num_contexts(self.num_contexts)
        if testbed.mode == "fixed":
            if self.reconstruction_batches or not self.exclude_special_tokens:
                settings = "reconstruction_batches and exclude_special_tokens"
                raise ConfigError(f"core: {settings} apply to mode: reference only", hint="set mode: reference")
            return num_contexts
        num_batches = -(-num_contexts // testbed.batch_size)
        scored = self.reconstruction_batches or max(1, num_batches // _BATCHES_PER_SCORED_BATCH)
        if scored >= num_batches:
            raise ConfigError(
                f"core: {scored} reconstruction batches leave none of the {num_batches} batches for sparsity",
                hint="lower reconstruction_batches or batch_size, or use more held-out contexts",
            )
        return scored * testbed.batch_size

    def _eval_config(self, testbed: Testbed) -> dict[str, Any]:
        """Returns the settings of this evaluation under SAEBench's names."""
        num_contexts, scored = testbed.num_contexts(self.num_contexts), self._scored_contexts(testbed)
        unscored = num_contexts if testbed.mode == "fixed" else num_contexts - scored
        model = testbed.language_model.config
        return {
            "model_name": model.model,
            "llm_dtype": model.dtype,
            "batch_size_prompts": testbed.batch_size,
            "n_eval_reconstruction_batches": -(-scored // testbed.batch_size),
            "n_eval_sparsity_variance_batches": -(-unscored // testbed.batch_size),
            "dataset": testbed.cache.attributes["config"]["dataset"]["source"],
            "context_size": testbed.cache.heldout.contexts.shape[1],
            "compute_kl": True,
            "compute_ce_loss": True,
            "compute_l2_norms": True,
            "compute_sparsity_metrics": True,
            "compute_variance_metrics": True,
            "compute_featurewise_density_statistics": True,
            "compute_featurewise_weight_based_metrics": True,
            "exclude_special_tokens_from_reconstruction": self.exclude_special_tokens,
            "verbose": False,
        }


def by_hook(testbed: Testbed) -> list[Testbed]:
    """Returns the testbed; that of crosscoders as those of the transcoders that they are at each hook."""
    if not testbed.is_of_crosscoders:
        return [testbed]
    return [testbed.at_target(hook) for hook in testbed.read_hooks]
