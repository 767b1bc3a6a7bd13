"""Which room the host chooses, and for which runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from helpers.steps_to_capture import BATCH, recipe_of, sae
from saepipe.train.captured.entry_room import MULTIPLE, EntryRoom, needs_room

pytestmark = pytest.mark.quick

META = torch.device("meta")


def test_room_is_a_quarter_more_and_kept_while_it_fits() -> None:
    said = list[str]()
    room = EntryRoom(said.append)
    assert room.fitting((1000, 10), 10**6) == (1280, 128)  # 1250 and 12.5, up to multiples of 128
    assert room.fitting((1280, 128), 10**6) == (1280, 128)
    assert room.fitting((500, 0), 10**6) == (1280, 128)  # 625 would become 640
    assert room.fitting((400, 0), 10**6) == (512, 128)
    assert said == []


def test_more_entries_than_there_is_room_for_are_counted_and_reported() -> None:
    said = list[str]()
    room = EntryRoom(said.append)
    rooms = [room.fitting((number, 0), 10**6)[0] for number in (1000, 1281, 1600, 3000)]
    assert rooms == [1280, 1664, 1664, 3840]
    assert [sentence.split(" entries")[0] for sentence in said] == ["a step has 1,281", "a step has 3,000"]
    assert (room.num_overflows, "(overflow 2)" in said[1]) == (2, True)


def test_too_many_near_ones_are_left_to_one_product() -> None:
    assert EntryRoom().fitting((0, 100), 1000) == (MULTIPLE, MULTIPLE)
    assert EntryRoom().fitting((0, 101), 1000) == (MULTIPLE, 0)


def test_there_is_no_room_for_more_entries_than_positions() -> None:
    assert EntryRoom().fitting((900, 0), 1000) == (1000, MULTIPLE)
    assert EntryRoom().fitting((0, 0), 12) == (12, 12)


@pytest.mark.parametrize(
    ("changes", "device", "batch", "expected"),
    [
        ({"sae": sae("relu"), "sparse_steps": "always"}, META, 4096, True),
        ({"sae": sae("gated"), "sparse_steps": "auto"}, META, 4096, True),
        ({"sae": sae("jumprelu"), "sparse_steps": "always"}, META, 4096, True),
        ({"sae": sae("relu"), "sparse_steps": "never"}, META, 4096, False),
        ({"sae": sae("topk"), "sparse_steps": "always"}, META, 4096, False),  # its number is fixed
        ({"sae": sae("relu"), "sparse_steps": "always"}, torch.device("cpu"), BATCH, True),
        ({"sae": sae("relu"), "sparse_steps": "always"}, torch.device("cpu"), 513, False),  # encoded in pieces
        ({"sae": sae("relu"), "sparse_steps": "always", "screen": "always"}, torch.device("cpu"), BATCH, False),
    ],
)
def test_a_run_needs_room_if_only_the_device_knows_its_number_of_entries(
    changes: dict[str, Any], device: torch.device, batch: int, expected: bool
) -> None:
    assert needs_room(recipe_of(changes, device), batch) is expected
