"""The first batches are read once, and are those of the stream."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import torch

from saepipe.data.batches.first_batches import FirstBatches
from saepipe.data.batches.stream import BatchStream
from saepipe.data.cache.cache import Cache


def test_first_batches_are_read_once(tiny_cache: Path) -> None:
    with BatchStream(Cache.open(tiny_cache), "blocks.1.hook_resid_post", 100, 0) as stream:
        whole = torch.cat(list(islice(stream.batches(), 90)))
        first = FirstBatches(stream)
        rows = first.rows(250)
        assert torch.equal(rows, whole[:250])
        assert first.take(2)[1] is first.take(3)[1]
        assert torch.equal(first.rows(10**6), whole[: stream.num_rows])  # an epoch, not more
        first.clear()
        assert torch.equal(first.take(1)[0], whole[:100])
