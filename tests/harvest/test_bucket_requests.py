"""Requests that write a cache into a bucket; `test_run_in_bucket.py` counts those of a whole harvest."""

from __future__ import annotations

import pytest

from saepipe.data.cache.layout import Layout
from saepipe.data.remote.mirrored_files import PART_BYTES
from saepipe.harvest.bucket_requests import num_writes

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(("profile", "arrays"), [("lossless", 5), ("int8", 9)])
def test_each_shard_of_each_array_is_an_object(profile: str, arrays: int) -> None:
    """Activations (with int8 four arrays), norms, contexts, positions, moments (and noise)."""
    layout = Layout({"blocks.0.hook_resid_post": 64}, 128, 1024, 1024, profile)  # type: ignore[arg-type]
    few, more = (num_writes(layout, shards, 0, 1, 1.0) for shards in (1, 8))
    assert more - few == 7 * arrays


def test_a_large_object_is_sent_in_parts() -> None:
    width = 64
    rows = 3 * PART_BYTES // (2 * width)
    layout = Layout({"blocks.0.hook_resid_post": width}, 128, rows - rows % 1024, 1024, "lossless")
    whole, halved = (num_writes(layout, 0, 1, 1, ratio) for ratio in (1.0, 10.0))
    assert whole - halved == 4  # begun, three parts, completed, instead of one
