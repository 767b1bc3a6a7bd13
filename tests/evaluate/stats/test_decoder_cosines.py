"""Decoder cosines of an SAE against the full matrix of cosines."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from saepipe.evaluate.stats import decoder_cosines
from saepipe.evaluate.stats.decoder_cosines import mean_absolute_cosine, similarity
from saepipe.evaluate.stats.histograms import COSINE, LOG10_DENSITY, histogram

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("side", [1, 3, 5, 2048])
@pytest.mark.parametrize("num_pairs", [1, 7, 1000])
def test_against_a_matrix_of_cosines(side: int, num_pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_cosines, "_SIDE", side)
    rows = torch.randn(11, 4, generator=torch.Generator().manual_seed(0)) * torch.arange(11).unsqueeze(
        1
    )  # row 0: zeros
    result = similarity(rows, num_pairs)
    plain = rows[1:].double().numpy()
    plain /= np.linalg.norm(plain, axis=1, keepdims=True)
    cosines = plain @ plain.T
    np.fill_diagonal(cosines, -2)
    np.testing.assert_allclose(result.max_cosine[1:].numpy(), cosines.max(1), atol=1e-6)
    assert result.max_cosine[0].isnan()
    assert result.nearest.tolist() == [0, *(cosines.argmax(1) + 1)]
    upper = np.triu_indices(10, 1)
    assert result.counts.tolist() == np.histogram(cosines[upper], COSINE)[0].tolist()
    assert mean_absolute_cosine(rows) == pytest.approx(np.abs(cosines[upper]).mean(), abs=1e-6)
    order = np.argsort(-cosines[upper])[:num_pairs]
    np.testing.assert_allclose(result.pairs.cosine.numpy(), cosines[upper][order], atol=1e-6)
    assert result.pairs.i.tolist() == (upper[0][order] + 1).tolist()
    assert result.pairs.j.tolist() == (upper[1][order] + 1).tolist()


def test_orthogonal_rows_and_a_duplicate() -> None:
    rows = torch.cat([torch.eye(4), 3 * torch.eye(4)[1:2]])
    result = similarity(rows, 3)
    assert result.max_cosine.tolist() == [0, 1, 0, 0, 1]
    assert (result.nearest[1], result.nearest[4]) == (4, 1)
    assert (result.pairs.i[0], result.pairs.j[0], result.pairs.cosine.tolist()) == (1, 4, [1, 0, 0])
    assert result.counts[-1] == 1  # a cosine of 1 is in the last bin
    assert result.counts.sum() == 10
    assert mean_absolute_cosine(rows) == pytest.approx(1 / 10)


def test_opposite_rows_overlap_as_much_as_equal_ones() -> None:
    assert mean_absolute_cosine(torch.tensor([[2.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])) == 1


@pytest.mark.parametrize("rows", [torch.zeros(3, 4), torch.eye(4)[:1]])
def test_too_few_rows_to_compare(rows: torch.Tensor) -> None:
    result = similarity(rows, 5)
    assert result.max_cosine.isnan().all()
    assert result.nearest.tolist() == list(range(len(rows)))
    assert (result.counts.sum(), len(result.pairs.i)) == (0, 0)
    assert math.isnan(mean_absolute_cosine(rows))


def test_histograms_skip_nan_and_clip_to_the_edges() -> None:
    result = histogram(np.array([-9.0, -6.9, 0.0, np.nan]), LOG10_DENSITY)
    assert (result.counts[0], result.counts[-1], sum(result.counts)) == (2, 1, 3)
    assert len(result.edges) == len(result.counts) + 1
