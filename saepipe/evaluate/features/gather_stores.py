"""Feature stores of all runs at one hook of a cache, made in one pass: each row is read and moved once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from saepipe.data.cache.cache import Cache
from saepipe.data.cache.mapped_rows import MappedRows
from saepipe.data.errors import SaepipeError
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.features.active import Active, Tokens, active
from saepipe.evaluate.features.coactive import Coactive
from saepipe.evaluate.features.config import Features
from saepipe.evaluate.features.contexts import chunks, num_rows
from saepipe.evaluate.features.firing_statistics import Figures
from saepipe.evaluate.features.logits import logits
from saepipe.evaluate.features.neighbours import neighbours
from saepipe.evaluate.features.store import Info
from saepipe.evaluate.features.store_job import StoreJob
from saepipe.evaluate.features.token_texts import token_texts
from saepipe.evaluate.features.top_examples import Kept
from saepipe.evaluate.features.write_store import write_features
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.subject import Subject

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Read:
    """What has gone by."""

    num_tokens: int
    num_contexts: int


class Gathering:
    """What is gathered of one SAE while the stream goes by."""

    def __init__(self, subject: Subject, settings: Features, window: int, device: torch.device) -> None:
        d_sae, sample = subject.sae.d_sae, settings.num_quantiles * settings.per_quantile
        self.subject = subject
        self.figures = Figures(d_sae, device)
        self.top = Kept(d_sae, settings.num_top, window, device)
        self.sample = Kept(d_sae, sample, window, device)
        self.coactive = Coactive(d_sae, settings.coactive_pairs * d_sae)

    def add(self, tokens: Tokens) -> None:
        found: Active = active(self.subject, tokens)
        self.figures.add(found)
        self.top.add(found, found.act, once_a_context=True)
        self.sample.add(found, tokens.uniform[found.row], once_a_context=False)
        self.coactive.add(found)


@torch.no_grad()
def build_stores(jobs: Sequence[StoreJob], progress: Progress) -> None:
    """Makes the stores of some runs, all at one hook of one cache and with the same settings.

    Raises:
        CorruptDataError: if an SAE gives NaN or Inf, or the cache is damaged.
        ConfigError: if held-out contexts are asked for, and the cache has none.
        LockedError: if another process is making one of them now.
    """
    testbed, settings = jobs[0].testbed, jobs[0].settings
    window = min(settings.window, testbed.cache.attributes["context_size"])
    subjects = [Subject.load(job.run, testbed.device) for job in jobs]
    gathered = [Gathering(subject, settings, window, testbed.device) for subject in subjects]
    read = _pass(gathered, testbed, settings, progress)
    for one, job in zip(gathered, jobs, strict=True):
        _write(one, job, read, progress)


def _pass(gathered: Sequence[Gathering], testbed: Testbed, settings: Features, progress: Progress) -> Read:
    cache, num_contexts, last = testbed.cache, 0, -1
    total = num_rows(cache, settings)
    progress.start(f"features at {testbed.hook} (SAEs: {len(gathered)})", total, "tokens")
    try:
        for chunk in chunks(cache, testbed.hook, settings):
            tokens = Tokens(chunk, cache.attributes["context_size"], settings.seed, testbed.device)
            for one in gathered:
                one.add(tokens)
            num_contexts += len(np.unique(chunk.context))
            assert chunk.context[0] > last, "a context is in one chunk"
            last = chunk.context[-1]
            progress.advance(len(chunk.x))
    finally:
        progress.finish()
    return Read(total, num_contexts)


def _write(one: Gathering, job: StoreJob, read: Read, progress: Progress) -> None:
    subject, testbed, settings = one.subject, job.testbed, job.settings
    cache = testbed.cache
    W_dec = subject.sae.W_dec.detach()
    arrays = one.figures.arrays()
    arrays["decoder_norm"] = torch.linalg.vector_norm(W_dec.float(), dim=1).cpu().numpy()
    arrays |= _examples(one, arrays["max_act"], cache, settings)
    arrays |= neighbours(W_dec, settings.num_neighbours) | one.coactive.nearest(settings.num_neighbours)
    found, no_logits = _logits(W_dec, testbed, settings)
    arrays |= found
    ids = [arrays[name] for name in ("contexts", "positive_ids", "negative_ids") if name in arrays]
    texts, no_texts = token_texts(cache, np.unique(np.concatenate([part.ravel() for part in ids])).tolist())
    for reason in filter(None, (no_logits if settings.num_logits else None, no_texts)):
        progress.say(f"features of {subject.name}: {reason}")
    info = Info(
        variant=subject.run.variant,
        seed=subject.run.seed,
        run=subject.run.fingerprint,
        cache=cache.fingerprint,
        hook=testbed.hook,
        model=cache.attributes["model"],
        dataset=cache.attributes.get("dataset", {}),
        d_in=W_dec.shape[1],
        d_sae=subject.sae.d_sae,
        context_size=cache.attributes["context_size"],
        split=settings.split,
        num_tokens=read.num_tokens,
        num_contexts=read.num_contexts,
        num_dead=int((one.figures.num_active == 0).sum()),
        coactive_tokens=one.coactive.num_tokens,
        num_top=settings.num_top,
        num_quantiles=settings.num_quantiles,
        per_quantile=settings.per_quantile,
        window=arrays["heat"].shape[2],
        settings=settings.to_dict(),
        no_logits=no_logits,
        no_texts=no_texts,
    )
    write_features(job.folder, info, arrays, texts, asdict(job.request), run=job.run.path)


def _examples(one: Gathering, max_act: np.ndarray, cache: Cache, settings: Features) -> Arrays:
    """The top and the sample side by side, and the contexts that they are of, each once."""
    size = cache.attributes["context_size"]
    tops, samples = one.top.in_order(strongest_first=True), one.sample.in_order(strongest_first=False)
    place, windows = (np.concatenate(both, axis=1) for both in zip(tops, samples, strict=True))
    known = place >= 0
    ids, row = np.unique(place[known] // size, return_inverse=True)
    example_context = np.full(place.shape, -1, np.int32)
    example_context[known] = row
    prefix = "heldout/" if settings.split == "heldout" else ""
    scale = np.where(np.isnan(max_act), 1, max_act)[:, None, None]
    return {
        "example_context": example_context,
        "example_position": np.where(known, place % size, 0).astype(np.int32),
        "heat": (windows / scale).astype(np.float16),
        "contexts": MappedRows(cache.path, f"{prefix}contexts", cache.files).take(ids),
        "documents": MappedRows(cache.path, f"{prefix}documents", cache.files).take(ids),
        "context_ids": ids.astype(np.int64),
    }


def _logits(W_dec: torch.Tensor, testbed: Testbed, settings: Features) -> tuple[Arrays, str | None]:
    """The arrays, or none and the reason why."""
    if not settings.num_logits:
        return {}, "num_logits is 0"
    try:
        return logits(testbed.language_model.model, W_dec, settings.num_logits), None
    except SaepipeError as error:
        return {}, f"no logits: {error.message}"
