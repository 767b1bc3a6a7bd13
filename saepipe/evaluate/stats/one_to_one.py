"""One-to-one matching of rows with columns by a score: the best assignment where it fits, beyond that a lower bound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

_HELD = 2**24
"""Scores held at a time: 64 MiB in float32."""


class Scores(Protocol):
    """Scores of each row with each column, computed where they are asked for."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def at(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Returns the scores (num_rows, num_columns) of the rows and columns with these indices."""


@dataclass(frozen=True)
class Cosines:
    """Cosines of unit rows a (num_a, d) with unit rows b (num_b, d)."""

    a: Tensor
    b: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.a), len(self.b)

    def at(self, rows: Tensor, columns: Tensor) -> Tensor:
        return self.a[rows] @ self.b[columns].T


@dataclass(frozen=True)
class Matching:
    """Rows and columns matched one to one, as many as there are of the fewer."""

    rows: Tensor
    """(num_matched,) int64"""
    columns: Tensor
    """(num_matched,) int64"""
    scores: Tensor
    """(num_matched,) float64"""
    upper: float
    """sum of scores that no one-to-one matching exceeds: their own, if the matching is the best"""


def match_one_to_one(scores: Scores, max_assigned: int) -> Matching:
    """Matches all rows, or all columns if they are fewer.

    Up to `max_assigned` of each, the matching has the largest sum of scores. Of more, the pairs that are each other's
    nearest are matched and set aside, again and again, until so few are left that these can be assigned. This is a
    matching like any other, so its sum is a lower bound of the largest; the largest is at most the sum of the rows'
    best scores, or of the columns'.
    """
    rows, columns = (torch.arange(num) for num in scores.shape)
    upper, parts = None, []
    while min(len(rows), len(columns)) and max(len(rows), len(columns)) > max_assigned:
        nearest = Nearest.of(scores, rows, columns)
        upper = nearest.upper if upper is None else upper
        row, column = nearest.mutual()
        parts.append((rows[row], columns[column], nearest.of_row[row].double()))
        rows, columns = _without(rows, row), _without(columns, column)
    row, column, score = assign(scores.at(rows, columns))
    parts.append((rows[row], columns[column], score))
    i, j, matched = (torch.cat(part) for part in zip(*parts, strict=True))
    return Matching(i, j, matched, float(matched.sum()) if upper is None else upper)


def assign(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the rows, columns and scores (float64) of the assignment with the largest sum of scores."""
    held = scores.double().cpu().numpy()
    row, column = linear_sum_assignment(held, maximize=True)
    return torch.from_numpy(row), torch.from_numpy(column), torch.from_numpy(held[row, column])


@dataclass(frozen=True)
class Nearest:
    """Best score of each of some rows and columns, and where it is."""

    of_row: Tensor
    """(num_rows,)"""
    column: Tensor
    """(num_rows,) int64: number of the nearest column among those searched"""
    of_column: Tensor
    """(num_columns,)"""
    row: Tensor
    """(num_columns,) int64: number of the nearest row"""

    @classmethod
    def of(cls, scores: Scores, rows: Tensor, columns: Tensor) -> Nearest:
        """Searches the rows and columns with these indices, some rows at a time."""
        of_row, column = torch.full((len(rows),), -torch.inf), torch.zeros(len(rows), dtype=torch.int64)
        of_column, row = torch.full((len(columns),), -torch.inf), torch.zeros(len(columns), dtype=torch.int64)
        for start, tile in _tiles(scores, rows, columns):
            here = slice(start, start + len(tile))
            of_row[here], column[here] = (best.cpu() for best in tile.max(1))
            score, index = (best.cpu() for best in tile.max(0))
            better = score > of_column
            of_column, row = score.where(better, of_column), (index + start).where(better, row)
        return cls(of_row, column, of_column, row)

    def mutual(self) -> tuple[Tensor, Tensor]:
        """Returns the numbers of the rows and columns that are each other's nearest; at least one pair."""
        row = torch.arange(len(self.column))
        row = row[self.row[self.column] == row] if len(self.row) else row[:0]
        return row, self.column[row]

    @property
    def upper(self) -> float:
        """Sum of scores that no one-to-one matching exceeds."""
        num = min(len(self.of_row), len(self.of_column))
        return min(float(best.double().topk(num).values.sum()) for best in (self.of_row, self.of_column))


def _tiles(scores: Scores, rows: Tensor, columns: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yields the number of a row, and the scores of some rows from it on."""
    num_rows = max(1, _HELD // max(1, len(columns)))
    for start in range(0, len(rows), num_rows) if len(columns) else ():
        yield start, scores.at(rows[start : start + num_rows], columns)


def _without(indices: Tensor, taken: Tensor) -> Tensor:
    keep = torch.ones(len(indices), dtype=torch.bool)
    keep[taken] = False
    return indices[keep]
