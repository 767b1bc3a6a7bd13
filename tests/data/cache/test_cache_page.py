"""The page about a cache names what people ask first."""

from __future__ import annotations

from pathlib import Path

from saepipe.data.cache.cache import Cache
from saepipe.data.cache.cache_page import cache_page, sizes


def test_the_page_of_a_harvest(toy_cache: Path) -> None:
    cache = Cache.open(toy_cache)
    page = cache_page(cache)
    assert page["model"] == "toy, Gemma2ForCausalLM, float32"
    assert page["hooks"] == "blocks.1.hook_resid_post, blocks.2.hook_resid_post"
    assert page["tokens"].startswith("12,000, in contexts of 128")
    assert page["held out"] == f"{len(cache.heldout.contexts)} contexts, {cache.heldout.contexts.size:,} positions"
    assert f"{sizes(cache)['ratio']:.2f} times smaller" in page["stored"]
    assert max(map(len, page.values())) < 120


def test_a_cache_without_text_or_held_out_part(tiny_cache: Path) -> None:
    page = cache_page(Cache.open(tiny_cache))
    assert page["held out"] == "nothing: it cannot be evaluated"
    assert (page["model"], page["text"]) == ("made up", "unknown")
