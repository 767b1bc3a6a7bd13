"""A synthetic store: what is written is read back, damage is refused, and reading does not import torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.flips import silent_flips
from helpers.made_stores import write_store
from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.folders import artifact
from saepipe.evaluate.features.mapped_tensors import map_safetensors
from saepipe.evaluate.features.store import FOLDER, FeatureStore, window_start
from saepipe.train.rundir.finished_run import open_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_store(tmp_path / "l1" / "seed-3")


def test_a_store_reads_back_what_was_written(run: Path) -> None:
    store = FeatureStore.open(run)
    arrays = map_safetensors(run / FOLDER / "features.safetensors")
    assert (store.info.variant, store.info.seed, store.info.run) == ("l1", 3, open_run(run).fingerprint)
    latent = store.latent(5)
    assert (latent.num_active, latent.density) == (arrays["num_active"][5], store.columns["density"][5])
    assert len(latent.examples) == 32
    quantiles = [f"q{n}" for n in (1, 2, 3, 4) for _ in range(4)]
    assert [example.group for example in latent.examples] == ["top"] * 16 + quantiles
    for slot, example in enumerate(latent.examples):
        row = arrays["example_context"][5, slot]
        assert (example.context, example.document) == (5 * row, row // 3)
        heat = arrays["heat"][5, slot].astype(np.float32) * arrays["max_act"][5]
        assert [0 if act is None else act for act in example.acts] == np.nan_to_num(heat).tolist()
        assert example.position == example.start + example.peak
        ids = arrays["contexts"][row, example.start : example.start + 32].tolist()
        assert example.tokens == [store.text(token) for token in ids]
    assert latent.neighbours == list(
        zip(*(arrays[n][5].tolist() for n in ("neighbours", "neighbour_cosine")), strict=True)
    )
    assert latent.positive_logits is not None
    assert latent.positive_logits[0] == (
        store.text(int(arrays["positive_ids"][5, 0])),
        float(arrays["positive_values"][5, 0]),
    )
    edges, counts = latent.histogram
    assert len(edges) == len(counts) + 1
    assert sum(counts) == latent.num_active


def test_a_dead_latent(run: Path) -> None:
    store = FeatureStore.open(run)
    dead = store.latent(9)
    assert dead.dead
    assert (dead.density, dead.mean_act, dead.max_act, dead.examples) == (0.0, None, None, [])
    assert np.isnan(store.columns["max_act"][9])
    assert store.top_tokens(9) == []
    assert store.info.num_dead == 3


def test_search_finds_latents_by_their_strongest_tokens(run: Path) -> None:
    store = FeatureStore.open(run)
    for text in ("WORD12", "cat", "nowhere"):
        expected = [i for i in range(32) if any(text.lower() in token.lower() for token in store.top_tokens(i))]
        assert store.search(text).tolist() == expected
    assert store.search("word").size > 20


def test_the_decoder_is_the_runs_own(run: Path, tmp_path: Path) -> None:
    W_dec = map_safetensors(run / "sae" / "sae_weights.safetensors")["W_dec"]
    np.testing.assert_array_equal(FeatureStore.open(run).decoder, W_dec)
    (run / FOLDER).rename(tmp_path / "alone")
    with pytest.raises(ConfigError, match="the run of .* is not at"):
        FeatureStore.open(tmp_path / "alone").decoder  # noqa: B018 - a property that reads
    artifact.write_file(tmp_path / "alone" / "log" / "run", f"{run}\n".encode())
    np.testing.assert_array_equal(FeatureStore.open(tmp_path / "alone").decoder, W_dec)


def test_without_logits_and_texts(tmp_path: Path) -> None:
    store = FeatureStore.open(write_store(tmp_path / "a" / "seed-0", num_logits=0))
    assert store.info.no_logits == "num_logits is 0"
    assert store.latent(0).positive_logits is store.latent(0).negative_logits is None
    assert store.text(12345) == "[12345]"


def test_a_missing_store_or_latent_is_refused(tmp_path: Path, run: Path) -> None:
    with pytest.raises(ConfigError, match="no feature store.*\n.*saepipe evaluate RUN"):
        FeatureStore.open(tmp_path)
    with pytest.raises(ConfigError, match="there is no latent 32.*\n.*0 to 31"):
        FeatureStore.open(run).latent(32)


def test_damage_is_refused(run: Path) -> None:
    folder = run / FOLDER
    path, data = folder / "features.safetensors", (folder / "features.safetensors").read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(CorruptDataError, match="bytes, not"):
        FeatureStore.open(run)
    path.write_bytes(data[:-1] + b"x")
    [problem] = FeatureStore.open(run).damage()
    assert "xxh3 differs" in problem
    with pytest.raises(CorruptDataError, match="xxh3 differs.*\n.*saepipe evaluate RUN builds the store again"):
        FeatureStore.open(run).latent(0)
    path.write_bytes(data)
    assert FeatureStore.open(run).damage() == []
    (folder / "COMMITTED").unlink()
    with pytest.raises(CorruptDataError, match="not finished"):
        FeatureStore.open(run)


@pytest.mark.parametrize("name", ["features.safetensors", "info.json", "tokens.json", "manifest.jsonl", "COMMITTED"])
def test_no_flipped_bit_is_silent(tmp_path: Path, name: str) -> None:
    run = write_store(tmp_path / "l1" / "seed-0", 8, num_contexts=20, vocab_size=60)

    def content() -> list[object]:
        store = FeatureStore.open(run)
        latents = [repr(store.latent(index)) for index in range(8)]
        return [store.info, latents, {key: column.tolist() for key, column in store.columns.items()}]

    assert silent_flips(run / FOLDER / name, content, 20) == []


def test_damaged_weights_of_the_run_are_not_shown(run: Path) -> None:
    store = FeatureStore.open(run)
    path = run / "sae" / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptDataError, match="sae_weights.safetensors has other content"):
        store.decoder  # noqa: B018 - a property that reads


@pytest.mark.parametrize("data", [b"", b"123", b"\xff" * 64, (20).to_bytes(8, "little") + b'{"a": {"dtype": 1}} ' * 3])
def test_a_file_that_is_not_safetensors_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(CorruptDataError, match="not a complete safetensors file"):
        map_safetensors(tmp_path / "x")


def test_another_format_is_refused(run: Path) -> None:
    folder = run / FOLDER
    header = artifact.read_manifest(folder)[0]
    info = json.loads((folder / "info.json").read_text())
    artifact.write_json(folder / "info.json", info | {"format_version": 9})
    files = artifact.digest_files(folder, header["files"])
    artifact.rewrite_manifest(folder, [header | {"files": files}])
    artifact.commit(folder)
    with pytest.raises(ConfigError, match="has format version 9"):
        FeatureStore.open(run)


def test_windows_stay_within_their_context() -> None:
    starts = [window_start(position, 6, 16) for position in range(16)]
    assert starts == [0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10]


def test_reading_needs_no_torch(run: Path) -> None:
    code = f"""
import sys
from saepipe.evaluate.features.roles import roles
from saepipe.evaluate.features.store import FeatureStore
store = FeatureStore.open({str(run)!r})
store.latent(1), store.columns, store.decoder, store.search("cat"), roles({str(run)!r})
print([name for name in ("torch", "transformers", "zarr", "pydantic") if name in sys.modules])
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"
