"""Python that users read: blocks of the docs, examples of docstrings, cells of notebooks."""

from __future__ import annotations

import doctest
import json
import re
from pathlib import Path

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def code_of_page(path: Path) -> str:
    """Returns the Python blocks of a page, in order, as one file.

    Those that read a cache by zarr alone are left out: its types do not say that an array's slice is an array.
    """
    return "\n".join(block for block in _BLOCK.findall(path.read_text()) if "zarr" not in block)


def code_of_docstring(text: str) -> str:
    """Returns what follows the prompts of a docstring's examples."""
    return "".join(example.source for example in doctest.DocTestParser().get_examples(text))


def code_of_notebook(path: Path) -> str:
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    return "\n\n".join("".join(cell["source"]) for cell in cells) + "\n"
