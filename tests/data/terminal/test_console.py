"""Output on a terminal whose encoding lacks letters."""

from __future__ import annotations

from io import BytesIO, TextIOWrapper

import pytest
from rich.console import Console
from rich.table import Table

from saepipe.data.terminal.console import escape_unprintable

pytestmark = pytest.mark.quick


def test_letters_that_the_encoding_lacks_are_escaped() -> None:
    stream = TextIOWrapper(BytesIO(), encoding="ascii")
    escape_unprintable(stream)
    table = Table("0.5 ± 0.1")
    table.add_row("naïve")
    Console(file=stream, width=60).print(table, "Δ")
    stream.flush()
    text = stream.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert "0.5 \\xb1 0.1" in text
    assert "na\\xefve" in text
