"""Core: how well an SAE reconstructs, how sparsely, and what the model loses when it reads the reconstruction.

Formulas, masks and where the reference (SAEBench 0.6.0) differs: docs/metrics/core.md.
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
from saepipe.evaluate.metrics.base import Measurement, Metric, Shown
from saepipe.evaluate.metrics.core.accumulate import FixedTally, ReferenceTally, Tally
from saepipe.evaluate.metrics.core.model_losses import counted, losses_work, model_losses
from saepipe.evaluate.metrics.core.saebench_formulas import ignored_ids
from saepipe.evaluate.model.kept_work import Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.subject import Subject

_SHARE = 11
"""SAEBench's own scripts give 200 batches to reconstruction and the next 2,000 to the rest: one in 11."""


class Core(Metric):
    """Batches of contexts outside, SAEs inside: a batch's clean pass is made once for all SAEs."""

    name: Literal["core"] = "core"
    num_contexts: Count | None = Field(default=None, gt=0)
    """Held-out contexts to use; null: all."""
    reconstruction_batches: Count | None = Field(default=None, gt=0)
    """Mode reference only: how many batches give CE and KL; the others give the rest. null: one in eleven."""
    exclude_special_tokens: bool = True
    """Mode reference only: whether the SAE leaves BOS, EOS and pad as they are. Else it stands in for them too."""
    eval_type_id: ClassVar[str] = "core"
    version: ClassVar[int] = 2
    shown: ClassVar[Mapping[str, Shown]] = {
        "l0": Shown("L0"),
        "explained_variance": Shown("explained variance", "higher"),
        "delta_ce": Shown("delta CE (nats)", "lower"),
        "ce_loss_score": Shown("CE score", "higher"),
        "kl_div_score": Shown("KL score", "higher"),
        "mse": Shown("MSE", "lower"),
        "cossim": Shown("cosine", "higher"),
        "l2_ratio": Shown("l2 ratio"),
        "frac_alive": Shown("alive", "higher"),
        "ce_loss_without_sae": Shown("clean CE (nats)", of_model=True),
        "ce_loss_with_ablation": Shown("ablated CE (nats)", of_model=True),
    }

    def works(self, testbed: Testbed) -> list[Work]:
        return [losses_work(testbed, self._scored_contexts(testbed))]

    @torch.no_grad()
    def measure(self, subjects: Sequence[Subject], testbed: Testbed, progress: Progress) -> list[Measurement]:
        num_contexts, scored = testbed.num_contexts(self.num_contexts), self._scored_contexts(testbed)
        tallies = self._tallies(subjects, testbed, progress)
        num_done = 0
        for batch in counted(testbed, num_contexts, progress, f"SAEs: {len(subjects)}"):
            with testbed.resumed() as resume:
                clean = resume(batch.ids, batch.x) if num_done < scored else None
                for tally in tallies:
                    tally.add(batch, clean, resume)
                del clean  # else two batches' logits would be held while the next one's are made
            num_done += len(batch.ids)
        eval_config = self._eval_config(testbed)
        return [replace(tally.measurement(), eval_config=eval_config) for tally in tallies]

    def _tallies(self, subjects: Sequence[Subject], testbed: Testbed, progress: Progress) -> list[Tally]:
        losses = model_losses(testbed, self._scored_contexts(testbed), progress)
        if testbed.mode == "fixed":
            num_documents = testbed.num_documents(testbed.num_contexts(self.num_contexts))
            return [FixedTally(subject, losses, num_documents) for subject in subjects]
        ignored = ignored_ids(testbed.language_model).to(testbed.device)
        everywhere = not self.exclude_special_tokens
        return [ReferenceTally(subject, losses, ignored, everywhere=everywhere) for subject in subjects]

    def _scored_contexts(self, testbed: Testbed) -> int:
        """How many contexts give CE and KL: the first ones."""
        num_contexts = testbed.num_contexts(self.num_contexts)
        if testbed.mode == "fixed":
            if self.reconstruction_batches or not self.exclude_special_tokens:
                settings = "reconstruction_batches and exclude_special_tokens"
                raise ConfigError(f"core: {settings} are settings of mode: reference", hint="mode: reference")
            return num_contexts
        num_batches = -(-num_contexts // testbed.batch_size)
        scored = self.reconstruction_batches or max(1, num_batches // _SHARE)
        if scored >= num_batches:
            raise ConfigError(
                f"core: {scored} batches of reconstruction leave none of {num_batches} for sparsity",
                hint="fewer reconstruction_batches, a smaller batch_size, or more held-out contexts",
            )
        return scored * testbed.batch_size

    def _eval_config(self, testbed: Testbed) -> dict[str, Any]:
        """SAEBench's names for what was done."""
        num_contexts, scored = testbed.num_contexts(self.num_contexts), self._scored_contexts(testbed)
        others = num_contexts if testbed.mode == "fixed" else num_contexts - scored
        model = testbed.language_model.config
        return {
            "model_name": model.model,
            "llm_dtype": model.dtype,
            "batch_size_prompts": testbed.batch_size,
            "n_eval_reconstruction_batches": -(-scored // testbed.batch_size),
            "n_eval_sparsity_variance_batches": -(-others // testbed.batch_size),
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
