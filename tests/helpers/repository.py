"""Paths of the checkout, so that a test file may move without counting its parents."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIGS, DOCS, EXAMPLES, BENCH = (ROOT / name for name in ("configs", "docs", "examples", "bench"))
