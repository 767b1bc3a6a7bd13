"""Digests of the text around tokens."""

from __future__ import annotations

import numpy as np
import pytest

from saepipe.evaluate.features.surroundings import AFTER, BEFORE, surroundings

pytestmark = pytest.mark.quick

TEXT = np.arange(100, 130)


def digests(*documents: np.ndarray) -> np.ndarray:
    """Returns the digests of one context that contains some documents, (context_size,)."""
    numbers = np.repeat(np.arange(len(documents)), [len(document) for document in documents])
    return surroundings(np.concatenate(documents)[None], numbers[None])[0]


def test_a_document_that_comes_again_has_the_same_digests() -> None:
    once, again = np.split(digests(np.arange(7), TEXT, TEXT, np.arange(3))[7:-3], 2)
    np.testing.assert_array_equal(once, again)
    assert len(set(once.tolist())) == len(TEXT)


@pytest.mark.parametrize("changed", [0, 12, 29])
def test_one_token_changes_the_digests_around_it_and_no_others(changed: int) -> None:
    other = TEXT.copy()
    other[changed] = 5
    places = np.arange(len(TEXT))
    around = (places - BEFORE <= changed) & (changed <= places + AFTER)
    np.testing.assert_array_equal(digests(TEXT) != digests(other), around)


def test_the_order_of_tokens_matters() -> None:
    assert digests(np.array([1, 2, 3]))[1] != digests(np.array([3, 2, 1]))[1]
