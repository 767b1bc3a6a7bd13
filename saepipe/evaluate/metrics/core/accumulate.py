"""What one SAE does on held-out batches, gathered until its core figures can be given; one class a mode."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch

from saepipe.data.errors import CorruptDataError
from saepipe.evaluate.metrics.base import Measurement
from saepipe.evaluate.metrics.core import saebench_formulas as saebench
from saepipe.evaluate.metrics.core.document_sums import Sums
from saepipe.evaluate.metrics.core.formulas import (
    CoreSums,
    chance_warnings,
    details,
    extra,
    latent_figures,
    metrics,
    warnings,
)
from saepipe.evaluate.metrics.core.model_losses import ModelLosses
from saepipe.evaluate.model.next_token import Prediction, predict, predict_as_saebench
from saepipe.evaluate.model.testbed import Batch
from saepipe.evaluate.model.upper_layers import Resume
from saepipe.evaluate.sae.firing import Firing
from saepipe.evaluate.sae.reconstruction import Reconstruction, reconstruct, token_values
from saepipe.evaluate.sae.subject import Subject


class Tally(Protocol):
    """Takes batches in order, then gives the figures."""

    def add(self, batch: Batch, clean: torch.Tensor | None, resume: Resume) -> None:
        """The next batch, and the clean logits (batch, seq, vocab) on it where it counts for CE and KL."""

    def measurement(self) -> Measurement: ...


class FixedTally:
    """Every batch counts for everything; sums are by document."""

    def __init__(self, subject: Subject, losses: ModelLosses, num_documents: int) -> None:
        self.subject = subject
        self.losses = losses
        self.sums = CoreSums(
            sae=Sums(num_documents, f"the SAE of {subject.name}"),
            clean=Sums(num_documents, "the clean model"),
            ablated=Sums(num_documents, "the zero-ablated model"),
        )
        self.firing = Firing.none(subject.sae.d_sae)
        self.num_positions = 0

    def add(self, batch: Batch, clean: torch.Tensor | None, resume: Resume) -> None:
        assert clean is not None
        x, documents, device = batch.x[batch.keep], batch.documents[batch.keep], batch.x.device
        made = reconstruct(self.subject.sae, x, batch.keep.nonzero()[:, 0], len(batch.ids))
        values = token_values(x, made.x_hat, self.losses.mean.to(device)) | {"l0": made.l0, "l1": made.l1}
        spliced = predict(resume(batch.ids, batch.spliced(made.x_hat)), batch.ids, clean)
        self.sums.sae.add(documents, values | _scored(batch, spliced))
        here = slice(self.firing.num_contexts, self.firing.num_contexts + len(batch.ids))
        for sums, losses in ((self.sums.clean, self.losses.clean), (self.sums.ablated, self.losses.ablated)):
            sums.add(documents, _scored(batch, losses[here].to(device)))
        self.firing = self.firing.add(made.firing)
        self.num_positions += batch.ids.numel()

    def measurement(self) -> Measurement:
        num_tokens = int(self.sums.sae.total("tokens"))
        latents = latent_figures(self.subject.sae, self.firing, num_tokens)
        return Measurement(
            metrics=metrics(self.sums, latents, self.num_positions),
            extra=extra(self.sums) | {"resume_gap": self.losses.resume_gap},
            details=details(latents),
            counts={
                "contexts": self.firing.num_contexts,
                "documents": self.sums.sae.num_documents,
                "tokens": num_tokens,
                "scored": int(self.sums.sae.total("scored")),
            },
            warnings=warnings(self.sums, self.losses.vocab_size),
        )


def _scored(batch: Batch, prediction: Prediction) -> dict[str, torch.Tensor]:
    """What the CE and KL metrics are sums of: by name, (num_kept,) each, `ce` and `kl` 0 where not `scored`."""
    scored = batch.scored[batch.keep]
    ce, kl = prediction.ce[batch.keep], prediction.kl[batch.keep]
    return {"scored": scored, "ce": ce.where(scored, 0.0), "kl": kl.where(scored, 0.0)}


class ReferenceTally:
    """As SAEBench: the first batches count for CE and KL only, those that follow for the rest only."""

    def __init__(self, subject: Subject, losses: ModelLosses, ignored: torch.Tensor, *, everywhere: bool) -> None:
        """Args:
        subject: the SAE.
        losses: of the contexts that count for CE and KL.
        ignored: (num_ignored,) ids of the tokens that are not kept.
        everywhere: whether x_hat stands in for ignored tokens too.
        """
        self.subject = subject
        self.losses = losses
        self.ignored = ignored
        self.everywhere = everywhere
        self.spliced: list[Prediction] = []
        self.keep: list[torch.Tensor] = []
        self.batches: list[dict[str, float]] = []
        self.firing = Firing.none(subject.sae.d_sae)

    def add(self, batch: Batch, clean: torch.Tensor | None, resume: Resume) -> None:
        batch = replace(batch, keep=~torch.isin(batch.ids, self.ignored))
        if clean is None:
            self._add_activations(batch)
        else:
            self._add_losses(batch, clean, resume)

    def measurement(self) -> Measurement:
        spliced, keep = Prediction.cat(self.spliced), torch.cat(self.keep)
        passes = {"with_ablation": self.losses.ablated, "with_sae": spliced, "without_sae": self.losses.clean}
        ce = {name: saebench.mean_ce(prediction, keep) for name, prediction in passes.items()}
        kl = {name: saebench.mean_kl(prediction, keep) for name, prediction in passes.items()}
        num_tokens = int(sum(batch["tokens"] for batch in self.batches))
        latents = latent_figures(self.subject.sae, self.firing, num_tokens, with_zeros=True)
        return Measurement(
            metrics={
                **saebench.figures_of_losses(ce, kl),
                **saebench.figures_of_activations(self.batches, d_in=len(self.losses.mean)),
                "token_stats": {
                    "total_tokens_eval_reconstruction": keep.numel(),
                    "total_tokens_eval_sparsity_variance": self.firing.num_contexts * keep.shape[1],
                },
                "misc_metrics": saebench.figures_of_latents(latents),
            },
            extra={
                "delta_ce": saebench.given(ce["with_sae"] - ce["without_sae"]),
                "resume_gap": self.losses.resume_gap,
            },
            details=saebench.details(latents),
            counts={
                "reconstruction_contexts": len(keep),
                "contexts": self.firing.num_contexts,
                "tokens": num_tokens,
            },
            warnings=chance_warnings(ce["without_sae"], self.losses.vocab_size),
        )

    def _add_losses(self, batch: Batch, clean: torch.Tensor, resume: Resume) -> None:
        at = replace(batch, keep=torch.ones_like(batch.keep)) if self.everywhere else batch
        logits = resume(batch.ids, at.spliced(self._reconstruct(at).x_hat))
        self.spliced.append(predict_as_saebench(logits, batch.ids, clean).to(torch.device("cpu")))
        self.keep.append(batch.keep.cpu())

    def _add_activations(self, batch: Batch) -> None:
        made = self._reconstruct(batch)
        self.batches.append(saebench.token_sums(batch.x[batch.keep], made))
        self.firing = self.firing.add(made.firing)

    def _reconstruct(self, batch: Batch) -> Reconstruction:
        x, contexts = batch.x[batch.keep], batch.keep.nonzero()[:, 0]
        made = reconstruct(self.subject.sae, x, contexts, len(batch.ids), positive=True)
        if not made.x_hat.isfinite().all():
            raise CorruptDataError(f"the SAE of {self.subject.name} on held-out tokens: x_hat is NaN or Inf")
        return made
