"""Sequences of different lengths in batches."""

from __future__ import annotations

import torch

from saepipe.evaluate.model.padded_batches import padded, padded_batches, rows_by_length


def test_each_sequence_is_in_one_batch_beside_others_of_its_length() -> None:
    sequences = [torch.arange(1, 1 + length) for length in (3, 1, 4, 1, 5)]
    batches = list(padded_batches(sequences, 2))
    assert [rows.tolist() for rows, _, _ in batches] == [[1, 3], [0, 2], [4]]
    assert batches[1][1].tolist() == [[1, 2, 3, 0], [1, 2, 3, 4]]
    for rows, ids, last in batches:
        for row, padded_ids, end in zip(rows.tolist(), ids, last.tolist(), strict=True):
            assert padded_ids[: end + 1].tolist() == sequences[row].tolist()


def test_nothing_gives_no_batch() -> None:
    assert list(padded_batches([], 2)) == []
    assert list(rows_by_length(torch.empty(0, dtype=torch.int64), 2)) == []


def test_vectors_are_padded_with_zeros() -> None:
    assert padded([torch.ones(1, 2), torch.ones(2, 2)]).tolist() == [[[1, 1], [0, 0]], [[1, 1], [1, 1]]]
