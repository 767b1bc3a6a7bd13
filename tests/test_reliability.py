"""docs/reliability.md names tests that exist."""

from __future__ import annotations

import re

import pytest

from helpers.repository import DOCS

NAMED = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (DOCS / "reliability.md").read_text("utf-8"))

pytestmark = pytest.mark.quick


def test_the_page_names_tests() -> None:
    assert len(NAMED) > 60


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_named_test_exists(file: str, name: str) -> None:
    text = (DOCS.parent / file).read_text("utf-8")
    assert f"def {name}(" in text if name else "def test_" in text
