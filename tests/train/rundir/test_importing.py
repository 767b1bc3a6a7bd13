"""Imports from the folders of other libraries: the checks, the resulting run, and an untouched source."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from helpers.dictionaries import import_here
from helpers.object_storage import ObjectStorage
from helpers.other_libraries import (
    D_IN,
    D_SAE,
    encode,
    randn,
    tensors,
    write_gemma_scope,
    write_gemma_scope_2,
    write_sparsify,
    write_trainer,
)
from helpers.scopes import NORM, llama_scope_values, qwen_values, write_llama_scope, write_qwen_scope
from saepipe.cli import Theirs, main
from saepipe.data.cache.cache import Cache
from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.folders import artifact
from saepipe.data.folders.health import Health
from saepipe.data.remote.bucket import bucket_of
from saepipe.train.config import TrainConfig
from saepipe.train.formats import saelens
from saepipe.train.run import train
from saepipe.train.rundir.finished_run import open_run
from saepipe.train.rundir.import_config import ImportConfig
from saepipe.train.rundir.importing import READERS, import_sae
from saepipe.train.rundir.load import load
from saepipe.train.sae.topk import TopK

HOOK = "blocks.1.hook_resid_post"
MODEL = {"lm_name": "someone/Made Up"}  # the last part is the model name in the tiny cache


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_trainer(tmp_path / "sweep" / "trainer_2", "BatchTopKSAE", **MODEL)


def content(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_an_imported_sae_is_a_finished_run(source: Path, tiny_cache: Path, tmp_path: Path) -> None:
    before = content(source.parent)
    path = import_here(source, "dictionary_learning", tiny_cache, tmp_path / "run")
    assert content(source.parent) == before
    run, cache = open_run(path), Cache.open(tiny_cache)
    assert (run.variant, run.seed, run.hook, run.cache_fingerprint) == ("trainer_2", 3, HOOK, cache.fingerprint)
    assert (run.trained, run.data_seed) == (None, None)
    assert isinstance(run.config, ImportConfig)
    assert (run.config.path, run.config.cache) == (source, tiny_cache)
    assert run.config.files == {
        name: hashlib.sha256((source / name).read_bytes()).hexdigest() for name in ("ae.pt", "config.json")
    }
    assert run.config.said == json.loads((source / "config.json").read_text())
    assert run.settings == {
        "imported": "dictionary_learning: trainer_2",
        "sae": {"name": "jumprelu", "d_sae": D_SAE},
        "hook": HOOK,
        "seed": 3,
    }
    assert {*artifact.read_manifest(path)[1]["files"]} == {
        *("config.yaml", "health.json", "sae/cfg.json", "sae/sae_weights.safetensors")
    }
    health = Health.read(path)
    assert (health.findings, health.evidence, health.audit["imported"]) == ((), {}, "dictionary_learning")
    sae, x = load(path), randn(200, D_IN, seed=8)
    assert sae.hook == HOOK
    torch.testing.assert_close(sae.encode(x), encode("BatchTopKSAE", tensors("BatchTopKSAE"), x))


def test_files_in_a_bucket_are_imported_into_a_bucket(
    source: Path, tiny_cache: Path, object_storage: ObjectStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in source.iterdir():
        bucket_of(object_storage.address).put(f"theirs/{path.name}", path)
    at, out = object_storage.at("theirs"), object_storage.at("run")
    arguments = ["--from", "dictionary_learning", "--cache", str(tiny_cache), "--allow-pickle-format"]
    assert main(["import", at, *arguments, "--out", out, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"] == out
    assert f"path: {at}\n" in object_storage.contents("run")["config.yaml"].decode()
    object_storage.other_machine()
    assert open_run(out).sites == "blocks.1.hook_resid_post"


def test_a_finished_import_is_kept_and_another_is_refused(source: Path, tiny_cache: Path, tmp_path: Path) -> None:
    out = import_here(source, "dictionary_learning", tiny_cache, tmp_path / "run")
    before = content(out)
    import_here(source, "dictionary_learning", tiny_cache, out)
    assert content(out) == before
    with pytest.raises(ConfigError, match="holds another run"):
        import_here(source, "dictionary_learning", tiny_cache, out, name="other")
    (out / "COMMITTED").unlink()
    (out / "sae" / "cfg.json").unlink()
    import_here(source, "dictionary_learning", tiny_cache, out)
    assert open_run(out).variant == "trainer_2"
    (out / "sae" / "cfg.json").write_text("{}")
    with pytest.raises(CorruptDataError, match="hint: import it again"):
        open_run(out)


def test_an_imported_run_is_neither_trained_nor_a_twin(source: Path, tiny_cache: Path, tmp_path: Path) -> None:
    """Training is refused in its folder, and runs beside it are not compared with it: its training is unknown."""
    import_here(source, "dictionary_learning", tiny_cache, tmp_path / "elsewhere" / "seed-0")
    raw = {"cache": str(tiny_cache), "sae": {"name": "relu", "d_sae": 40}, "steps": 3, "device": "cpu"}
    raw |= {"batch_size": 64, "penalties": [{"name": "l1", "weight": 0.3}]}
    with pytest.raises(ConfigError, match="holds an imported SAE"):
        train(TrainConfig.parse({**raw, "variants": [{"name": "elsewhere"}]}), tmp_path)
    (path,) = train(TrainConfig.parse(raw), tmp_path)
    assert not {"H2", "H3"} & {finding.rule for finding in Health.read(path).findings}


@pytest.mark.parametrize(
    ("recorded", "given", "words"),
    [
        ({"lm_name": "google/gemma-2-2b"}, {}, "trained on google/gemma-2-2b, but .* was made with made up"),
        ({}, {"hook": "blocks.2.hook_resid_post"}, f"was trained at {HOOK}, not at blocks.2.hook_resid_post"),
        ({"submodule_name": None}, {"hook": "blocks.2.hook_resid_pre"}, f"trained at {HOOK}, not at blocks.2"),
        ({"submodule_name": None}, {"hook": "blocks.1.hook_resid_pre"}, f"hook_resid_pre, but .* has only {HOOK}"),
        ({"layer": 12, "submodule_name": None}, {}, f"at blocks.12.hook_resid_post, but .* has only {HOOK}"),
        ({"submodule_name": "mlp_layer_1"}, {}, f"was trained at blocks.1.mlp_layer_1, but .* has only {HOOK}"),
        ({"layer": None}, {}, "does not say which hook it was trained at"),
        ({}, {"seed": 4}, "was trained with seed 3, not 4"),
    ],
)
def test_contradictions_are_refused(
    tmp_path: Path, tiny_cache: Path, recorded: dict[str, Any], given: dict[str, Any], words: str
) -> None:
    folder = write_trainer(tmp_path / "ae", "AutoEncoder", **(MODEL | recorded))
    with pytest.raises(ConfigError, match=words):
        import_here(folder, "dictionary_learning", tiny_cache, tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_another_width_and_nan_are_refused(tmp_path: Path, toy_cache: Path, tiny_cache: Path) -> None:
    folder = write_trainer(tmp_path / "ae", "AutoEncoder", lm_name=None)
    with pytest.raises(ConfigError, match=f"has d_in {D_IN}, but .* has {Cache.open(toy_cache).d_in}"):
        import_here(folder, "dictionary_learning", toy_cache, tmp_path / "run")
    folder = write_trainer(tmp_path / "nan", "AutoEncoder", {"bias": torch.full((D_IN,), torch.nan)}, **MODEL)
    with pytest.raises(CorruptDataError, match="b_dec holds NaN or Inf"):
        import_here(folder, "dictionary_learning", tiny_cache, tmp_path / "run")


def test_settings_missing_from_the_source_must_be_given(tmp_path: Path, tiny_cache: Path) -> None:
    file = write_gemma_scope(tmp_path / "some SAEs" / "params.npz")
    with pytest.raises(ConfigError, match="does not say which hook it was trained at"):
        import_sae(file, "gemma-scope", tiny_cache, tmp_path / "run")
    run = open_run(import_sae(file.parent, "gemma-scope", tiny_cache, tmp_path / "run", hook=HOOK))
    assert (run.variant, run.seed, run.settings["seed"]) == ("some-SAEs", 0, None)
    named = import_sae(file, "gemma-scope", tiny_cache, tmp_path / "named", hook=HOOK, name="a/b", seed=7)
    assert (open_run(named).variant, open_run(named).seed) == ("a-b", 7)


def test_a_model_may_have_two_names(tmp_path: Path, tiny_cache: Path) -> None:
    file = write_gemma_scope(tmp_path / "gemma-scope-2b-pt-res" / "layer_1" / "average_l0_9" / "params.npz")
    run = import_sae(file.parent, "gemma-scope", tiny_cache, tmp_path / "run", model="gemma-2-2b")
    assert open_run(run).variant == "layer_1-average_l0_9"
    with pytest.raises(ConfigError, match="trained on google/gemma-2-2b"):
        import_sae(file.parent, "gemma-scope", tiny_cache, tmp_path / "run", model="gemma-2-9b")


def test_a_saelens_folder(tmp_path: Path, tiny_cache: Path, params: dict[str, torch.Tensor], x: torch.Tensor) -> None:
    folder = tmp_path / "mine"
    saelens.write(folder, TopK(d_sae=40, k=6), params, {"hook_name": HOOK, "model_name": "made up"})
    run = import_sae(folder, "saelens", tiny_cache, tmp_path / "run")
    assert open_run(run).settings["sae"] == {"name": "topk", "d_sae": 40, "k": 6}
    assert torch.equal(load(run)(x), load(folder)(x))
    assert (load(run).hook, load(run).metadata["saepipe"]["name"]) == (HOOK, "mine")


def test_seeds_of_a_sparsify_run_become_seeds_of_one_variant(tmp_path: Path, tiny_cache: Path) -> None:
    for seed in (0, 3):
        folder = write_sparsify(tmp_path / "my-run" / "layers.1" / f"seed{seed}")
        run = open_run(import_sae(folder, "sparsify", tiny_cache, tmp_path / f"imported-{seed}"))
        assert (run.variant, run.seed, run.hook) == ("my-run", seed, HOOK)
        assert run.settings["sae"] == {"name": "topk", "d_sae": D_SAE, "k": 6}


def test_gemma_scope_2_is_recognised_by_its_files(tmp_path: Path, tiny_cache: Path) -> None:
    folder = write_gemma_scope_2(
        tmp_path / "layer_1_width_16k", hf_hook_point_in="model.layers.1.output", hf_hook_point_out=None
    )
    with pytest.raises(ConfigError, match="trained on google/gemma-3-1b-pt"):
        import_sae(folder, "gemma-scope", tiny_cache, tmp_path / "run")
    run = import_sae(folder, "gemma-scope", tiny_cache, tmp_path / "run", model="gemma-3-1b-pt")
    assert isinstance(config := open_run(run).config, ImportConfig)
    assert (config.hook, config.files.keys()) == (HOOK, {"params.safetensors", "config.json"})


def test_llama_scope_with_a_norm_that_was_given(tmp_path: Path, tiny_cache: Path) -> None:
    """The norm changes the parameters, so it changes the id; a number that the files say themselves does not."""
    folder = write_llama_scope(tmp_path / "L1R", dataset_average_activation_norm=None)
    run = open_run(import_sae(folder, "llama-scope", tiny_cache, tmp_path / "run", activation_norm=NORM))
    assert isinstance(run.config, ImportConfig)
    assert (run.config.activation_norm, run.config.files.keys()) == (NORM, {"final.safetensors", "hyperparams.json"})
    other = import_sae(folder, "llama-scope", tiny_cache, tmp_path / "other", activation_norm=2 * NORM)
    assert run.config.run_id("") != open_run(other).config.run_id("")
    x = randn(200, D_IN, seed=8)
    torch.testing.assert_close(load(tmp_path / "run").encode(x), llama_scope_values(folder, x)[0])
    said = import_sae(write_llama_scope(tmp_path / "says"), "llama-scope", tiny_cache, tmp_path / "said")
    assert "activation_norm" not in load(said).metadata["saepipe"]


def test_qwen_scope_with_a_k_that_was_given(tmp_path: Path, tiny_cache: Path) -> None:
    file = write_qwen_scope(tmp_path / "mine" / "layer1.sae.pt")
    with pytest.raises(ConfigError, match="can hold code"):
        import_sae(file, "qwen-scope", tiny_cache, tmp_path / "run", k=6)
    with pytest.raises(ConfigError, match="does not say k"):
        import_here(file, "qwen-scope", tiny_cache, tmp_path / "run")
    run = open_run(import_here(file.parent, "qwen-scope", tiny_cache, tmp_path / "run", k=6))
    assert (run.variant, run.hook, run.settings["sae"]) == ("layer_1", HOOK, {"name": "topk", "d_sae": D_SAE, "k": 6})
    x = randn(200, D_IN, seed=8)
    torch.testing.assert_close(load(tmp_path / "run").encode(x), qwen_values(x, 6)[0])


@pytest.mark.parametrize(
    ("given", "words"),
    [({"k": 6}, "--k is for qwen-scope"), ({"activation_norm": 2.0}, "--activation-norm is for llama-scope")],
)
def test_a_fact_that_the_library_says_itself_is_refused(
    source: Path, tiny_cache: Path, tmp_path: Path, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=f"{words}; dictionary_learning says it itself"):
        import_here(source, "dictionary_learning", tiny_cache, tmp_path / "run", **given)


def test_the_command(source: Path, tiny_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["import", str(source), "--from", "dictionary_learning", "--cache", str(tiny_cache)]
    assert main([*command, "--out", str(tmp_path / "run")]) == 2
    assert "can hold code" in (text := capsys.readouterr().err)
    assert "--allow-pickle-format" in text
    assert not (tmp_path / "run").exists()
    command.append("--allow-pickle-format")
    assert main([*command, "--out", str(tmp_path / "run"), "--format", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    norms = tensors("BatchTopKSAE")["decoder.weight"].norm(dim=0)
    assert shown["fingerprint"] == open_run(tmp_path / "run").fingerprint
    assert (shown["variant"], shown["seed"], shown["hook"], shown["name"]) == ("trainer_2", 3, HOOK, "jumprelu")
    assert shown["decoder_norms"] == f"{norms.min():.4g} to {norms.max():.4g}"
    assert main([*command, "--out", str(tmp_path / "run"), "--hook", "blocks.7.hook_resid_post"]) == 2
    assert "was trained at" in capsys.readouterr().err
    assert set(get_args(Theirs)) == READERS.keys()
