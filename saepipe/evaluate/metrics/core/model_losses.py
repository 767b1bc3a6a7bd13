"""What core needs of the model alone: its loss on held-out text as it is, and with zeros at the hook. Stored once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.model.kept_work import Content, Work
from saepipe.evaluate.model.next_token import Prediction, predict, predict_as_saebench
from saepipe.evaluate.model.testbed import Batch, Testbed
from saepipe.evaluate.model.upper_layers import Resume

PREDICT = {"fixed": predict, "reference": predict_as_saebench}

_FORMAT = 1


@dataclass(frozen=True)
class ModelLosses:
    """Of the first contexts, on the CPU."""

    clean: Prediction
    """(num_contexts, seq): the model resumed from what stands at the hook; its divergence from itself is 0"""
    ablated: Prediction
    """(num_contexts, seq): with zeros at the kept positions; in mode reference at all of them, BOS too"""
    mean: torch.Tensor
    """(d_in,) float64: the mean activation over all kept tokens, so that variation is about the true mean"""
    resume_gap: float
    """nats; see `Testbed.resume_gap`"""
    vocab_size: int


def losses_work(testbed: Testbed, num_contexts: int) -> Work:
    """How the artifacts know it. Other batch sizes round otherwise in the model's matmuls, so they do not share it."""
    key = {
        "format": _FORMAT,
        "cache": testbed.cache.fingerprint,
        "num_contexts": num_contexts,
        "batch_size": testbed.batch_size,
        "mode": testbed.mode,
        "live": testbed.live,
    }
    return Work("core", key)


def model_losses(testbed: Testbed, num_contexts: int, progress: Progress) -> ModelLosses:
    """Of the first `num_contexts` held-out contexts: two passes of the upper layers, the first time.

    Raises:
        ConfigError: if no token is kept.
        CorruptDataError: if the model is not the one that made the cache.
    """
    work = losses_work(testbed, num_contexts)
    stored = testbed.artifacts.get(work.kind, work.key, lambda: _run(testbed, num_contexts, progress))
    t = stored.tensors
    return ModelLosses(
        clean=Prediction(t["ce_clean"], torch.zeros_like(t["ce_clean"])),
        ablated=Prediction(t["ce_ablated"], t["kl_ablated"]),
        mean=t["mean"],
        resume_gap=stored.info["resume_gap"],
        vocab_size=stored.info["vocab_size"],
    )


@torch.no_grad()
def _run(testbed: Testbed, num_contexts: int, progress: Progress) -> Content:
    gap = testbed.resume_gap()
    predict = PREDICT[testbed.mode]
    ablate = _everywhere if testbed.mode == "reference" else _where_kept
    clean_ce, ablated, sums, num_tokens, vocab_size = [], [], [], 0, 0
    for batch in counted(testbed, num_contexts, progress, "the model"):
        with testbed.resumed() as resume:
            clean = resume(batch.ids, batch.x)
            without = ablate(batch, resume)
        clean_ce.append(predict(clean, batch.ids, clean).ce)
        ablated.append(predict(without.expand_as(clean), batch.ids, clean))
        x = batch.x[batch.keep].double()
        sums.append(x.sum(0))
        num_tokens += len(x)
        vocab_size = clean.shape[-1]
        del clean, without, x  # else two batches' logits would be held while the next one's are made
    if num_tokens == 0:
        raise ConfigError("the held-out contexts hold special tokens only", hint="harvest with more held-out text")
    without_hook = Prediction.cat(ablated)
    tensors = {
        "ce_clean": torch.cat(clean_ce),
        "ce_ablated": without_hook.ce,
        "kl_ablated": without_hook.kl,
        "mean": torch.stack(sums).sum(0) / num_tokens,
    }
    return Content(tensors, {"resume_gap": gap, "vocab_size": vocab_size})


def counted(testbed: Testbed, num_contexts: int, progress: Progress, what: str) -> Iterator[Batch]:
    """The batches, with a bar."""
    progress.start(f"core at {testbed.hook} ({what})", num_contexts, "contexts")
    try:
        for batch in testbed.batches(num_contexts):
            yield batch
            progress.advance(len(batch.ids))
    finally:
        progress.finish()


def _where_kept(batch: Batch, resume: Resume) -> torch.Tensor:
    return resume(batch.ids, batch.spliced(0.0))


def _everywhere(batch: Batch, resume: Resume) -> torch.Tensor:
    """Zeros at all positions leave nothing of a context, so the logits (1, seq, vocab) of one are those of any."""
    return resume(batch.ids[:1], torch.zeros_like(batch.x[:1]))
