"""Principal axes: what a flip keeps, and directions that have the data's covariance."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saepipe.evaluate.metrics.stability.principal_axes import Moments, PrincipalAxes

pytestmark = pytest.mark.quick

D = 6


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def rows() -> torch.Tensor:
    """Returns skewed, correlated rows around a mean far from 0."""
    mixing = torch.randn(D, D, generator=generator(1))
    return 5 + torch.rand(4000, D, generator=generator(2)).square() @ mixing


@pytest.fixture
def axes(rows: torch.Tensor) -> PrincipalAxes:
    moments = Moments()
    for part in rows.split(700):
        moments.add(part)
    return moments.principal_axes()


def test_moments_in_parts_are_numpys(rows: torch.Tensor, axes: PrincipalAxes) -> None:
    covariance = axes.axes.T @ axes.variances.diag() @ axes.axes
    np.testing.assert_allclose(axes.mean, rows.double().mean(0), rtol=1e-6)
    np.testing.assert_allclose(covariance, np.cov(rows.double().numpy().T, bias=True), atol=1e-6)


def test_a_flip_keeps_mean_covariance_and_cosines_and_no_more(rows: torch.Tensor, axes: PrincipalAxes) -> None:
    signs = torch.tensor([1.0, -1, 1, -1, -1, 1])
    flipped = axes.flip_rows(rows, signs)
    np.testing.assert_allclose(flipped.mean(0), rows.mean(0), atol=1e-4)
    np.testing.assert_allclose(np.cov(flipped.numpy().T), np.cov(rows.numpy().T), atol=1e-4)
    np.testing.assert_allclose(axes.flip_rows(flipped, signs), rows, atol=1e-4)
    directions = torch.randn(9, D, generator=generator(3))
    moved = axes.flip_directions(directions, signs)
    np.testing.assert_allclose(moved @ moved.T, directions @ directions.T, atol=1e-4)
    np.testing.assert_allclose(axes.deviations(moved), axes.deviations(directions), atol=1e-5)
    assert (moved - directions).norm(dim=1).min() > 0.1
    skewness = [((x - x.mean(0)) ** 3).mean() for x in (rows @ directions[0], flipped @ directions[0])]
    assert abs(skewness[0] - skewness[1]) > 0.1 * abs(skewness[0])


def test_signs_are_fair(axes: PrincipalAxes) -> None:
    rng = generator(4)
    drawn = torch.stack([axes.random_signs(rng) for _ in range(400)])
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    assert drawn.mean(0).abs().max() < 0.2


def test_random_directions_have_the_datas_covariance(rows: torch.Tensor, axes: PrincipalAxes) -> None:
    """As directions of a normal sample do: their mean outer product is that of normalised normal rows by numpy."""
    drawn = axes.random_directions(40_000, generator(5)).numpy()
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1, atol=1e-5)
    normal = np.random.default_rng(0).multivariate_normal(np.zeros(D), np.cov(rows.numpy().T), 40_000)
    expected = normal / np.linalg.norm(normal, axis=1, keepdims=True)
    np.testing.assert_allclose(drawn.T @ drawn / 40_000, expected.T @ expected / 40_000, atol=0.01)


def test_deviations_along_directions(rows: torch.Tensor, axes: PrincipalAxes) -> None:
    directions = axes.random_directions(5, generator(6))
    along = (rows.double() @ directions.double().T).numpy().std(0)
    np.testing.assert_allclose(axes.deviations(directions), along, rtol=1e-4)
