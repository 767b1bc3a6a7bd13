"""A small study on the session's toy cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.small_study import plain_study


@pytest.fixture
def plain(toy_cache: Path) -> dict[str, Any]:
    return plain_study(toy_cache)
