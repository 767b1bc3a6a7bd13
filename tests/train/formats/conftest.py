"""Rows that every format is tried on."""

from __future__ import annotations

import pytest
from torch import Tensor

from helpers.other_libraries import D_IN, drawn


@pytest.fixture
def rows() -> Tensor:
    """(300, 24)"""
    return drawn(300, D_IN, seed=9, scale=2.0)
