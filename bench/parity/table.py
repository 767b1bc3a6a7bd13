"""Rows of the parity table: a figure on both sides, their difference, and whether they are equal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RELATIVE = 1e-4
_FLOOR = 1e-3


@dataclass(frozen=True)
class Row:
    """Comparison of one key; for an array, of the element that differs most."""

    part: str
    key: str
    reference: float | None
    ours: float | None
    difference: float
    """|reference - ours| / max(|reference|, |ours|), or absolute if `absolutely` compared the key."""
    allowed: float = RELATIVE
    note: str = ""

    @property
    def equal(self) -> bool:
        return bool(self.difference <= self.allowed)

    def __str__(self) -> str:
        verdict = "equal" if self.equal else "DIFFERENT"
        numbers = f"{_number(self.reference):>14} {_number(self.ours):>14} {self.difference:9.1e}"
        return f"{self.part:<24} {self.key:<48} {numbers}  {verdict}{f'  {self.note}' if self.note else ''}"


def relatively(part: str, key: str, reference: float | Sequence[float], ours: float | Sequence[float]) -> Row:
    """Compares two numbers or two arrays by relative difference.

    The difference of array entries below a thousandth of the array's largest is relative to that thousandth: a float32
    dot product that cancels to less (a cosine of 8e-5) does not have four correct digits on either side.
    """
    a, b = np.atleast_1d(np.asarray(reference, float)), np.atleast_1d(np.asarray(ours, float))
    if a.shape != b.shape or not len(a):
        return Row(part, key, None, None, float("inf"), note=f"shapes {a.shape} and {b.shape}")
    size = np.maximum(np.maximum(np.abs(a), np.abs(b)), _FLOOR * np.abs(a).max() if len(a) > 1 else 0.0)
    difference = np.where(size == 0, 0.0, np.abs(a - b) / np.where(size == 0, 1.0, size))
    worst = int(np.nan_to_num(difference, nan=np.inf).argmax())
    note = f"the worst of {len(a)}" if len(a) > 1 else ""
    return Row(
        part, key, float(a[worst]), float(b[worst]), float(np.nan_to_num(difference[worst], nan=np.inf)), note=note
    )


def absolutely(part: str, key: str, reference: np.ndarray, ours: np.ndarray, allowed: float) -> Row:
    """Compares two arrays whose elements may be near 0 by their largest absolute difference."""
    a, b = np.asarray(reference, float).ravel(), np.asarray(ours, float).ravel()
    if a.shape != b.shape or not len(a):
        return Row(part, key, None, None, float("inf"), allowed, f"shapes {a.shape} and {b.shape}")
    return _worst(part, key, a, b, np.abs(a - b), allowed, f"absolute, the worst of {len(a)}")


def exactly(part: str, key: str, reference: object, ours: object, note: str = "") -> Row:
    """Compares two objects for equality."""
    return Row(part, key, None, None, 0.0 if reference == ours else float("inf"), note=note)


def _worst(part: str, key: str, a: np.ndarray, b: np.ndarray, difference: np.ndarray, allowed: float, note: str) -> Row:
    difference = np.nan_to_num(difference, nan=np.inf)
    worst = int(difference.argmax())
    return Row(part, key, float(a[worst]), float(b[worst]), float(difference[worst]), allowed, note)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.8g}"
