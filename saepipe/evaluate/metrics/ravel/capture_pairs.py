"""The pairs with the model's activations, made once for all SAEs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import accumulate

import torch
from torch import Tensor

from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.metrics.ravel.known_prompts import KnownPrompts
from saepipe.evaluate.metrics.ravel.pair_inputs import PairInputs
from saepipe.evaluate.metrics.ravel.swap_pairs import Pair, PairSampling, sample_pairs
from saepipe.evaluate.metrics.ravel.teacher_forcing import continues, forced
from saepipe.evaluate.model.kept_work import Content, Work
from saepipe.evaluate.model.padded_batches import padded_batches
from saepipe.evaluate.model.testbed import Testbed

_VERSION = 1
"""Version of the stored content."""


def pair_inputs_work(prompts: Work, sampling: PairSampling) -> Work:
    """Returns the work that `load_pair_inputs` needs, besides that for the prompts."""
    return Work("ravel_pairs", {"prompts": dict(prompts.key), **asdict(sampling), "version": _VERSION})


def load_pair_inputs(
    testbed: Testbed, known: KnownPrompts, num_attributes: int, sampling: PairSampling, work: Work, progress: Progress
) -> PairInputs:
    """Returns the pairs with the activations, and the answers if the whole activation is swapped; an artifact."""

    def make() -> Content:
        pairs, reasons = sample_pairs(known, num_attributes, sampling)
        tensors = _pair_tensors(pairs) | _activations(testbed, pairs, progress)
        none_yet = torch.zeros(len(pairs), dtype=torch.bool)
        swapped = _swap_whole(testbed, PairInputs(**tensors, swapped=none_yet, reasons=reasons), progress)
        return Content(tensors | {"swapped": swapped}, {"reasons": list(reasons.items())})

    content = testbed.kept_work.get(work.kind, work.key, make)
    return PairInputs(**content.tensors, reasons=dict(content.info["reasons"]))


def _text(pair: Pair) -> tuple[int, ...]:
    return tuple(forced(pair.base.ids, pair.target).tolist())


def _source(pair: Pair) -> tuple[int, ...]:
    """Returns the source up to its entity; what comes after has no effect there."""
    return pair.source.ids[: pair.source.position + 1]


def _pair_tensors(pairs: Sequence[Pair]) -> dict[str, Tensor]:
    """Returns the fields of `PairInputs` for which no model is needed."""
    texts, sources = _numbered(map(_text, pairs)), _numbered(map(_source, pairs))
    columns = {
        "attribute": [pair.attribute for pair in pairs],
        "base_entity": [pair.base.entity for pair in pairs],
        "source_entity": [pair.source.entity for pair in pairs],
        "position": [pair.base.position for pair in pairs],
        "text": [texts[_text(pair)] for pair in pairs],
        "source": [sources[_source(pair)] for pair in pairs],
        "targets": [token for pair in pairs for token in pair.target],
        "target_offsets": [0, *accumulate(len(pair.target) for pair in pairs)],
    }
    flags = {"is_test": [pair.is_test for pair in pairs], "is_cause": [pair.is_cause for pair in pairs]}
    return {
        **{name: torch.tensor(column, dtype=torch.int64) for name, column in columns.items()},
        **{name: torch.tensor(column, dtype=torch.bool) for name, column in flags.items()},
    }


def _activations(testbed: Testbed, pairs: Sequence[Pair], progress: Progress) -> dict[str, Tensor]:
    """Returns the distinct texts with x at every token, and x at the entity of each distinct source."""
    texts = [torch.tensor(ids) for ids in _numbered(map(_text, pairs))]
    sources = [torch.tensor(ids) for ids in _numbered(map(_source, pairs))]
    offsets = torch.tensor([0, *accumulate(map(len, texts))])
    dtype = testbed.language_model.model.dtype
    x = torch.empty(int(offsets[-1]), testbed.d_in, dtype=dtype)
    x_sources = torch.empty(len(sources), testbed.d_in, dtype=dtype)
    progress.start(f"ravel: activations at {testbed.hook}", len(texts) + len(sources), "prompts")
    try:
        for rows, ids, last in padded_batches(texts, testbed.batch_size):
            for row, captured, length in zip(rows.tolist(), testbed.capture(ids).cpu(), last + 1, strict=True):
                x[offsets[row] : offsets[row + 1]] = captured[:length]
            progress.advance(len(rows))
        for rows, ids, last in padded_batches(sources, testbed.batch_size):
            x_sources[rows] = testbed.capture(ids).cpu()[torch.arange(len(rows)), last]
            progress.advance(len(rows))
    finally:
        progress.finish()
    return {
        "ids": torch.cat([torch.empty(0, dtype=torch.int64), *texts]),
        "text_offsets": offsets,
        "x": x,
        "x_sources": x_sources,
    }


@torch.no_grad()
def _swap_whole(testbed: Testbed, inputs: PairInputs, progress: Progress) -> Tensor:
    """Returns `PairInputs.swapped`."""
    tested, swapped = inputs.is_test.nonzero().squeeze(1), torch.zeros_like(inputs.is_test)
    progress.start(f"ravel: the whole activation swapped at {testbed.hook}", len(tested), "pairs")
    try:
        with testbed.upper_layers() as upper_layers:
            for batch in inputs.batches(tested, testbed.batch_size):
                x = batch.x.clone()
                x[torch.arange(len(x)), batch.positions] = batch.x_source
                swapped[batch.rows] = continues(upper_layers(batch.ids, x), batch.labels)
                progress.advance(len(batch.rows))
    finally:
        progress.finish()
    return swapped


def _numbered(texts: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], int]:
    """Returns distinct texts in the order in which they first occur, with their numbers."""
    return {ids: number for number, ids in enumerate(dict.fromkeys(texts))}
