"""One of each kind of what is verified, and damage to it."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from helpers.made_results import write_core
from helpers.made_stores import write_store
from saepipe.data.folders import artifact
from saepipe.evaluate.browse.notes import Notes
from saepipe.evaluate.model.kept_work import Content, KeptWork, Work

RESULT, STORE, WORK, NOTES, WEIGHTS = "result", "feature store", "kept work", "notes", "run"


def make_parts(folder: Path, tiny_cache: Path) -> Path:
    """Makes a cache, work kept beside it, and a run with a result, a store and notes; returns the folder."""
    cache = Path(shutil.copytree(tiny_cache, folder / "caches" / "tiny"))
    KeptWork(Path(f"{cache}.artifacts"), {"model": "toy"}).get("probe", {}, lambda: Content({"x": torch.ones(9)}))
    run = write_core(write_store(folder / "runs" / "l1" / "seed-0", 8))
    Notes(run, artifact.open_committed(run, "run")[0]).write(1, "a note")
    return folder


def files_of(study: Path) -> dict[str, Path]:
    """Returns a file of each kind below a folder of `make_parts`."""
    run, kept_work = study / "runs" / "l1" / "seed-0", KeptWork(study / "caches" / "tiny.artifacts", {"model": "toy"})
    return {
        RESULT: run / "eval" / "core.json",
        STORE: run / "features" / "features.safetensors",
        WORK: kept_work.folder(Work("probe", {})) / "tensors.safetensors",
        NOTES: run / "notes.json",
        WEIGHTS: run / "sae" / "sae_weights.safetensors",
    }


def damage(path: Path) -> None:
    """Flips a bit of a file."""
    data = bytearray(path.read_bytes())
    data[-20 if path.suffix == ".json" else len(data) // 2] ^= 1
    path.write_bytes(data)
