"""delphi's latent cache: every activation at its position, by brute force and by delphi's own reader."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from helpers.interrupted_harvests import contents
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.mapped_rows import MappedRows
from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.evaluate.export.delphi import _split_files, export_delphi, module_name
from saepipe.evaluate.sae.subject import Subject
from saepipe.train.config import TrainConfig
from saepipe.train.run import train
from saepipe.train.rundir.load import load
from saepipe.train.sae.sparse_acts import SparseActs

HOOK, D_SAE = "blocks.1.hook_resid_post", 50
SPLITS = ["0_15", "16_32", "33_49"]


@pytest.fixture(scope="module")
def run(toy_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a run of a TopK that was trained briefly: some latents are dead."""
    settings = {"cache": str(toy_cache), "hook": HOOK, "device": "cpu", "steps": 20, "batch_size": 256}
    sae = {"sae": {"name": "topk", "d_sae": D_SAE, "k": 3}, "penalties": []}
    return train(TrainConfig.parse(settings | sae), tmp_path_factory.mktemp("runs"))[0]


def all_acts(run: Path, cache: Cache, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns tokens (num_contexts, context_size) and acts (num_contexts, context_size, d_sae), 0 without a row."""
    sae = load(run)
    if split == "heldout":
        heldout = cache.heldout
        acts = sae.encode(heldout.activations(HOOK, 0, len(heldout.contexts))).numpy()
        return heldout.contexts, acts * heldout.keep[:, :, None]
    tokens, context, position = (
        rows.read(0, rows.num_rows)
        for rows in (MappedRows(cache.path, name, cache.files) for name in ("contexts", "context_id", "position"))
    )
    acts = np.zeros((*tokens.shape, D_SAE), np.float32)
    acts[context, position] = sae.encode(cache.acts(HOOK)[:]).numpy()
    return tokens[: context.max()], acts[: context.max()]


def read_back(module: Path, num_contexts: int, context_size: int) -> np.ndarray:
    """Returns the acts of the files by their layout, (num_contexts, context_size, d_sae) float16."""
    acts = np.zeros((num_contexts, context_size, D_SAE), np.float16)
    for path in module.glob("*.safetensors"):
        first, last = map(int, path.stem.split("_"))
        arrays = load_file(path)
        locations = arrays["locations"].astype(np.int64)
        assert ((locations[:, 2] >= 0) & (locations[:, 2] <= last - first)).all()
        assert not acts[locations[:, 0], locations[:, 1], first + locations[:, 2]].any()
        acts[locations[:, 0], locations[:, 1], first + locations[:, 2]] = arrays["activations"]
    return acts


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_activation_is_at_its_position(run: Path, toy_cache: Path, tmp_path: Path, split: Any) -> None:
    out = export_delphi(run, tmp_path / "latents", split=split, num_splits=3, device="cpu")
    tokens, acts = all_acts(run, Cache.open(toy_cache), split)
    module = out / "layers.1"
    assert sorted(path.name for path in out.rglob("*")) == [
        *(f"{name}.safetensors" for name in SPLITS),
        "config.json",
        "layers.1",
    ]
    expected = np.where(np.abs(acts) > 1e-5, acts, 0).astype(np.float16)
    assert (expected > 0).sum() > 1000
    found = read_back(module, *tokens.shape)
    assert np.array_equal(found > 0, expected > 0)
    # Entries are computed one by one on some processors, and a float16 may then be the next one.
    np.testing.assert_allclose(found, expected, rtol=2**-10)
    for name in SPLITS:
        arrays = load_file(module / f"{name}.safetensors")
        assert (arrays["locations"].dtype, arrays["activations"].dtype) == (np.uint16, np.float16)
        assert np.array_equal(arrays["tokens"], tokens)
        flat = arrays["locations"].astype(np.int64) @ [tokens.shape[1] * D_SAE, D_SAE, 1]
        assert (np.diff(flat) > 0).all()  # context, then position, then latent


def test_the_config_records_the_provenance(run: Path, toy_cache: Path, tmp_path: Path) -> None:
    out = export_delphi(run, tmp_path / "latents", num_contexts=7, device="cpu")
    config = json.loads((out / "layers.1" / "config.json").read_text())
    cache = Cache.open(toy_cache)
    assert (config["dataset_repo"], config["dataset_column"], config["dataset_split"]) == ("toy", "text", "train")
    size = cache.attributes["context_size"]
    assert (config["cache_ctx_len"], config["n_tokens"], config["n_splits"]) == (size, 7 * size, 5)
    assert config["model_name"] == cache.attributes["model"]["id"]
    assert config["saepipe"]["cache"] == cache.fingerprint
    assert load_file(out / "layers.1" / "0_9.safetensors")["tokens"].shape == (7, size)


def test_an_export_can_be_repeated_but_not_replaced(run: Path, tmp_path: Path) -> None:
    out = export_delphi(run, tmp_path / "latents", num_contexts=5, device="cpu")
    before = contents(out)
    export_delphi(run, out, num_contexts=5, device="cpu")
    assert contents(out) == before
    with pytest.raises(ConfigError, match="holds something else"):
        export_delphi(run, out, num_contexts=6, device="cpu")
    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["latents"]


def test_a_failed_export_leaves_nothing(
    run: Path, tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "latents"
    wrong: Any = "test"
    with pytest.raises(ConfigError, match="no split 'test'"):
        export_delphi(run, out, split=wrong)
    with pytest.raises(ConfigError, match="was trained from cache"):
        export_delphi(run, out, cache=str(tiny_cache))
    with pytest.raises(ConfigError, match="does not have 9,999 contexts"):
        export_delphi(run, out, num_contexts=9_999)
    with pytest.raises(ConfigError, match="51 files for 50 latents"):
        export_delphi(run, out, num_splits=51)
    encode = Subject.encode_sparse

    def huge(subject: Subject, x: torch.Tensor) -> SparseActs:
        acts = encode(subject, x)
        return replace(acts, values=1e6 * acts.values)

    monkeypatch.setattr(Subject, "encode_sparse", huge)
    with pytest.raises(CorruptDataError, match="float16"):
        export_delphi(run, out, device="cpu")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("shape", "d_sae", "dtype"), [((2**16, 2), 4, np.uint16), ((2**16 + 1, 2), 4, np.uint32)])
def test_many_contexts_need_wider_integers(tmp_path: Path, shape: tuple[int, int], d_sae: int, dtype: type) -> None:
    tokens, last = np.zeros(shape, np.int32), np.array([shape[0] - 1])
    for file in _split_files(tmp_path, tokens, d_sae, 2):
        file.add(last, np.array([1]), np.array([3]), np.array([2.5], np.float16))
        file.write(tokens)
    assert load_file(tmp_path / "0_1.safetensors")["locations"].shape == (0, 3)
    arrays = load_file(tmp_path / "2_3.safetensors")
    assert arrays["locations"].dtype == dtype
    assert arrays["locations"].tolist() == [[shape[0] - 1, 1, 1]]
    assert arrays["activations"].tolist() == [2.5]


def test_a_module_is_named_by_its_output() -> None:
    assert module_name("blocks.19.hook_resid_post") == module_name("blocks.20.hook_resid_pre") == "layers.19"
    assert module_name("blocks.0.hook_resid_pre") == "blocks.0.hook_resid_pre"


@pytest.mark.interop
@pytest.mark.parametrize(("num_contexts", "num_splits"), [(80, 3), (1, D_SAE)])
def test_delphis_own_reader_reads_the_same(
    run: Path, toy_cache: Path, tmp_path: Path, num_contexts: int, num_splits: int
) -> None:
    """Compares every latent's activations, and records with examples. One context leaves most files empty.

    vllm, which delphi requires, pins another torch. delphi's reader works without it:
    pip install asyncer blobfile faiss-cpu sentence-transformers && pip install --no-deps eai-delphi
    """
    loader = pytest.importorskip("delphi.latents.loader", reason="delphi is not installed")
    config = pytest.importorskip("delphi.config")
    settings: dict[str, Any] = {"num_contexts": num_contexts, "num_splits": num_splits}
    out = export_delphi(run, tmp_path / "latents", device="cpu", **settings)
    tokens, acts = (array[:num_contexts] for array in all_acts(run, Cache.open(toy_cache), "train"))
    stored = torch.from_numpy(np.where(np.abs(acts) > 1e-5, acts, 0).astype(np.float16))
    alive = torch.unique(stored.nonzero()[:, 2]).tolist()
    assert num_contexts > 1 or len(alive) < D_SAE

    activations = {}
    for start, end in loader.LatentDataset._edges(None, out, "layers.1"):
        for record in loader.TensorBuffer(f"{out}/layers.1/{start}_{end}.safetensors", "layers.1"):
            activations[record.latent.latent_index] = record.activation_data
    assert sorted(activations) == alive
    for latent, data in activations.items():
        index = stored[:, :, latent].nonzero()
        assert torch.equal(data.locations[:, :2], index)
        assert torch.equal(data.activations, stored[index[:, 0], index[:, 1], latent])

    some = torch.tensor(alive[::3])
    dataset = loader.LatentDataset(
        out,
        config.SamplerConfig(n_examples_train=4, n_examples_test=4, n_quantiles=2, train_type="top"),
        config.ConstructorConfig(example_ctx_len=32, min_examples=1, n_non_activating=2),
        tokenizer=_Tokenizer(),
        latents={"layers.1": some},
    )
    records = {record.latent.latent_index: record for record in dataset}
    assert sorted(records) == some.tolist()
    windows = stored.reshape(-1, 32, D_SAE).amax(1)
    for latent, record in records.items():
        strongest = windows[:, latent].sort(descending=True).values
        assert [example.activations.max() for example in record.train] == strongest[: len(record.train)].tolist()
        assert len(record.examples) == int((strongest > 0).sum())
        assert record.per_token_frequency == pytest.approx(int((stored[:, :, latent] > 0).sum()) / tokens.size)


class _Tokenizer:
    """The interface that delphi needs."""

    def batch_decode(self, tokens: torch.Tensor) -> list[str]:
        return [f"[{token}]" for token in tokens.tolist()]
