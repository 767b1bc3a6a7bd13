"""Rows on which every format is tested."""

from __future__ import annotations

import pytest
from torch import Tensor

from helpers.other_libraries import D_IN, randn


@pytest.fixture
def rows() -> Tensor:
    """(300, 24) float32."""
    return randn(300, D_IN, seed=9, scale=2.0)
