"""Three runs for the feature browser: two share a decoder; the third has another, so it has no counterparts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from helpers.made_stores import write_store
from saepipe.data.folders import artifact
from saepipe.evaluate.features.store import FOLDER, FeatureStore
from saepipe.evaluate.features.write_store import write_features

D_SAE, D_IN = 150, 64
VARIANTS = {"topk": 0, "topk_orthogonal": 0, "jumprelu": 1}
"""Variants with the seed of their decoders and other content."""


def write_runs(folder: Path, d_in: int = D_IN) -> list[Path]:
    return [
        write_store(folder / variant / "seed-0", D_SAE, d_in=d_in, seed=seed, heat=3.0 + index)
        for index, (variant, seed) in enumerate(VARIANTS.items())
    ]


def rewritten(run: Path, texts: Mapping[int, str] | None = None, **changes: Any) -> Path:
    """Rewrites a run's store with other texts for some tokens, or other entries of `StoreInfo`; returns the run."""
    store = FeatureStore.open(run)
    arrays = {name: np.array(array) for name, array in store.arrays.items()}
    old_texts = {token: store.text(token) for token in range(500)}
    write_features(run / FOLDER, replace(store.info, **changes), arrays, old_texts | dict(texts or {}), {})
    return run


def write_roles(run: Path) -> None:
    """Writes an evaluation that gives roles to latents 5 and 6, and a weak lead to latent 7."""
    letter = {"first_letter": "k", "split_latents": [5], "f1_split": 0.9, "top_absorbers": [[6, 2]]}
    weak = {"first_letter": "q", "split_latents": [7], "f1_split": 0.3, "top_absorbers": None}
    artifact.write_json(run / "eval" / "absorption.json", {"saepipe": {"letters": [letter, weak]}})


SERVE = """
import sys
from pathlib import Path
from saepipe.evaluate.browse.run import browse
browse([Path(run) for run in sys.argv[1:]])
heavy = {"torch", "transformers", "zarr", "datasets", "scipy", "sklearn", "pydantic"}
print("heavy:", *sorted(heavy & set(sys.modules)))
"""


@contextmanager
def serving(runs: list[Path]) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Yields the address with its token, and the process, which finally prints the heavy libraries that it loaded."""
    command = [sys.executable, "-c", SERVE, *map(str, runs)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip(), process
        finally:
            process.terminate()
