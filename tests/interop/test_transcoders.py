"""Transcoders in SAELens 6.54.12 and circuit-tracer 0.5.0: their classes compute what ours do."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from helpers.made_caches import structured_rows, write_cache
from helpers.random_runs import TRANSCODER_HOOKS, random_transcoder, rows
from saepipe.train.rundir.exporting import export_sae
from saepipe.train.rundir.importing import import_sae
from saepipe.train.rundir.load import load

pytestmark = pytest.mark.interop

D = 12


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parts = {hook: structured_rows(300, D, seed) for seed, hook in enumerate(TRANSCODER_HOOKS)}
    return write_cache(tmp_path_factory.mktemp("sites") / "cache", parts)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("name", ["batch_topk", "jumprelu", "relu"])
def test_saelens_reads_our_export_and_we_read_it_back(
    sae_lens: ModuleType, sites: Path, tmp_path: Path, name: str, skip: bool, compare: Any
) -> None:
    run = random_transcoder(tmp_path / "run", name, sites, skip=skip)
    theirs = sae_lens.SAE.load_from_disk(str(export_sae(run, "saelens", tmp_path / "out")))
    ours, x, label = load(run), rows(200, D, 0, 1.0), f"{name} transcoder{', skip' if skip else ''}"
    with torch.no_grad():
        values = theirs.encode(x), theirs(x)
    compare("saelens", "ours to library", label, (ours.encode(x), ours(x)), values)
    theirs.save_model(str(tmp_path / "again"))
    back = load(import_sae(tmp_path / "again", "saelens", sites, tmp_path / "back"))
    compare("saelens", "there and back", label, (back.encode(x), back(x)), (ours.encode(x), ours(x)))


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("name", ["batch_topk", "jumprelu", "relu"])
def test_circuit_tracer_reads_our_export(sites: Path, tmp_path: Path, name: str, skip: bool, compare: Any) -> None:
    theirs = pytest.importorskip("circuit_tracer.transcoder.single_layer_transcoder")
    run = random_transcoder(tmp_path / "run", name, sites, skip=skip)
    file = export_sae(run, "circuit-tracer", tmp_path / "out") / "layer_1.safetensors"
    transcoder = theirs.load_relu_transcoder(
        str(file), 1, device=torch.device("cpu"), lazy_encoder=False, lazy_decoder=False
    )
    ours, x = load(run), rows(200, D, 0, 1.0)
    with torch.no_grad():
        values = transcoder.encode(x), transcoder(x)
    label = f"{name} transcoder{', skip' if skip else ''}"
    compare("circuit-tracer", "ours to library", label, (ours.encode(x), ours(x)), values)
