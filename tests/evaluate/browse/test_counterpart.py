"""Counterparts that are known by construction."""

from __future__ import annotations

import numpy as np
import pytest

from saepipe.evaluate.browse.counterpart import nearest, nearest_of_each

pytestmark = pytest.mark.quick


def unit_rows(seed: int, num: int, d_in: int = 24) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((num, d_in)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_latents_of_a_permuted_and_rotated_copy_are_found() -> None:
    rows, order = unit_rows(0, 300), np.random.default_rng(1).permutation(300)
    rotated = rows + 0.05 * unit_rows(2, 300)
    rotated /= np.linalg.norm(rotated, axis=1, keepdims=True)
    for index, latent in enumerate(order):
        match = nearest(rows[latent], rotated[order])
        assert match is not None
        assert match.latent == index
        assert match.cosine == pytest.approx(float(rows[latent].astype(np.float64) @ rotated[latent]), abs=1e-6)


def test_blocks_and_single_rows_agree_to_the_last_bit() -> None:
    rows, others = unit_rows(3, 600), unit_rows(4, 433)
    rows[17] = 0
    matches = list(nearest_of_each(rows, others))
    assert matches == [nearest(row, others) for row in rows]
    brute = np.array([[float(np.dot(row, other)) for other in others] for row in rows[:20]])
    assert [match.latent for match in matches[:17]] == brute[:17].argmax(axis=1).tolist()


def test_a_row_of_zeros_has_no_counterpart() -> None:
    assert nearest(np.zeros(24, np.float32), unit_rows(5, 9)) is None
