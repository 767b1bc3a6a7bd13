"""Sizes of what is encoded at a time."""

from __future__ import annotations

import pytest

from saepipe.evaluate.sae.reconstruction import tokens_at_a_time

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("d_sae", "num_tokens"), [(2, 8192), (512, 8192), (1024, 4096), (2048, 2048), (32768, 2048), (65536, 1024)]
)
def test_tokens_of_a_small_sae_fill_the_cache(d_sae: int, num_tokens: int) -> None:
    """16 MiB of float32 activations, but neither so many rows nor so few that other arrays matter more; 256 at most."""
    assert tokens_at_a_time(d_sae) == num_tokens
    assert num_tokens in (2048, 8192) or 4 * num_tokens * d_sae in (16 * 2**20, 256 * 2**20)
