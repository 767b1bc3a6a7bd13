"""Shares of a command's work: read from 2/8, and dealt out without a gap or an overlap."""

from __future__ import annotations

import pytest

from saepipe.data.errors import ConfigError
from saepipe.data.ranks.share import Share

pytestmark = pytest.mark.quick


def test_a_share_is_read_and_written() -> None:
    assert Share.of("2/8") == Share(2, 8)
    assert str(Share(2, 8)) == "2/8"
    assert Share.of(Share(2, 8)) == Share(2, 8)


@pytest.mark.parametrize("wrong", ["0/8", "9/8", "2", "2/", "-1/8", "1.5/8", "2 of 8", "1/0", ""])
def test_what_is_no_share_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="is no share of the work"):
        Share.of(wrong)


@pytest.mark.parametrize("count", [1, 3, 10, 12])
def test_each_piece_is_in_one_share(count: int) -> None:
    shares = [Share(number, count).pieces(range(10)) for number in range(1, count + 1)]
    assert sorted(piece for share in shares for piece in share) == [*range(10)]
    assert {len(share) for share in shares} <= {10 // count, 10 // count + 1}


def test_neighbours_are_dealt_to_different_shares() -> None:
    assert Share(2, 3).pieces("abcdefgh") == ["b", "e", "h"]
    assert Share().pieces("abc") == ["a", "b", "c"]
