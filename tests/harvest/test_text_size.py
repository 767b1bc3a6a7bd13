"""A dry run counts what the text holds, or says that it did not."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from helpers.interrupted_harvests import changed
from saepipe.data import toy
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.plan import plan
from saepipe.harvest.run import harvest


@pytest.fixture
def config(toy_config: HarvestConfig, tmp_path: Path) -> HarvestConfig:
    """Returns a harvest that asks for far more tokens than its text has."""
    text = "\n\n".join(document.text for document in islice(toy.documents(), 80))
    (tmp_path / "own.txt").write_text(text)
    return changed(toy_config, num_tokens=10**6, dataset={"source": str(tmp_path / "own.txt")})


def test_a_short_text_is_counted_to_its_end(config: HarvestConfig, tmp_path: Path) -> None:
    planned, cache = plan(config, tmp_path / "cache"), harvest(config, tmp_path / "cache")
    assert planned.text == "all"
    assert planned.tokens == planned.tokens_counted == cache.num_tokens
    assert planned.heldout_positions == cache.heldout.contexts.size
    assert planned.page()["tokens"] == f"{cache.num_tokens:,}, not the 1,000,000 asked for: the text has no more"


def test_a_long_text_is_counted_as_far_as_needed_or_not_at_all(
    toy_config: HarvestConfig, config: HarvestConfig, tmp_path: Path
) -> None:
    enough = plan(toy_config, tmp_path / "cache")
    assert (enough.text, enough.tokens) == ("enough", toy_config.num_tokens)
    uncounted = plan(config, tmp_path / "cache", count_seconds=0)
    assert (uncounted.text, uncounted.tokens) == ("some", 10**6)
    assert "is not known, but it has at least" in uncounted.page()["tokens"]
