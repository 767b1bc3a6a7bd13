"""Exports to the formats of other libraries, checked with their formulas; and what each format cannot represent."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from helpers import other_libraries
from helpers.made_caches import structured_rows, write_cache
from helpers.other_libraries import D_IN, D_SAE, K
from helpers.random_runs import ARCHITECTURES, CLASSES, random_run, rows, write_evaluation
from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.folders.artifact import COMMITTED
from saepipe.data.folders.atomic_folder import file_sizes
from saepipe.train.config import TrainConfig
from saepipe.train.formats import saelens
from saepipe.train.formats.dictionary_learning import KEYS
from saepipe.train.rundir.exporting import WRITERS, Library, export_sae
from saepipe.train.rundir.finished_run import open_run
from saepipe.train.rundir.importing import import_sae
from saepipe.train.rundir.load import load

HOOK = "blocks.1.hook_resid_post"


def make_run(folder: Path, name: str, cache: Path, **settings: Any) -> Path:
    if "k" in ARCHITECTURES[name]:
        settings = {"k": K} | settings
    return random_run(folder / "run", name, cache, **settings)


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_dictionary_learning_s_formulas_reproduce_the_run(tiny_cache: Path, tmp_path: Path, name: str) -> None:
    """Uses the formulas of each class with ae.pt and config.json, on activations around 0 and far from it."""
    for mean in (0.0, 20.0):
        run = make_run(tmp_path / f"{mean:g}", name, tiny_cache, mean=mean)
        out = export_sae(run, "dictionary_learning", tmp_path / f"{mean:g}" / "out")
        config = json.loads((out / "config.json").read_text())
        kind = config["trainer"]["dict_class"]
        w = torch.load(out / "ae.pt", weights_only=True)
        assert kind == CLASSES[name]
        assert w.keys() == set(KEYS[kind].values())
        assert all(value.is_contiguous() for value in w.values())
        ours, x = load(run), rows(200, D_IN, 1, mean)
        acts = other_libraries.encode(kind, w, x)
        torch.testing.assert_close(ours.encode(x), acts, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(ours(x), other_libraries.decode(kind, w, acts), rtol=1e-5, atol=1e-4)
        assert 0.01 < (acts > 0).float().mean() < 0.9


def test_the_content_of_config_json(tiny_cache: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, "matryoshka_batch_topk", tiny_cache, seed=4)
    out = export_sae(run, "dictionary_learning", tmp_path / "out")
    config, w = json.loads((out / "config.json").read_text()), torch.load(out / "ae.pt", weights_only=True)
    trained = open_run(run).config
    assert isinstance(trained, TrainConfig)
    sizes = [stop - start for start, stop in pairwise((0, 7, 16, D_SAE))]
    assert config["trainer"] == {
        "trainer_class": "MatryoshkaBatchTopKTrainer",
        "dict_class": "MatryoshkaBatchTopKSAE",
        "activation_dim": D_IN,
        "dict_size": D_SAE,
        "k": K,
        "group_sizes": sizes,
        "lr": trained.optimizer.lr,
        "steps": 3,
        "seed": 4,
        "device": "cpu",
        "layer": 1,
        "lm_name": "made up",
        "wandb_name": "matryoshka_batch_topk",
        "submodule_name": "resid_post_layer_1",
    }
    assert config["buffer"] == {"ctx_len": 16, "d_submodule": D_IN, "io": "out"}
    assert config["saepipe"]["fingerprint"] == open_run(run).fingerprint
    assert (int(w["k"]), w["group_sizes"].tolist(), w["threshold"].shape) == (K, sizes, ())
    assert (w["k"].dtype, w["group_sizes"].dtype) == (torch.int32, torch.int64)


def test_a_fractional_k_is_exported_as_a_jumprelu(tiny_cache: Path, tmp_path: Path) -> None:
    out = export_sae(make_run(tmp_path, "batch_topk", tiny_cache, k=5.5), "dictionary_learning", tmp_path / "out")
    trainer = json.loads((out / "config.json").read_text())["trainer"]
    assert (trainer["dict_class"], "k" in trainer) == ("JumpReluAutoEncoder", False)


def imported(folder: Path, cache: Path, norms: Tensor) -> Path:
    """Imports a ReLU SAE in SAELens format whose decoder rows have these norms."""
    ours = load(make_run(folder, "relu", cache))
    params = dict(ours.named_parameters())
    params["W_dec"] = params["W_dec"] * norms.unsqueeze(1)
    metadata = {"hook_name": HOOK, "model_name": "made up", "prepend_bos": False, "neuronpedia_id": "made-up/1"}
    saelens.write(folder / "theirs", ours.settings, params, metadata)
    return import_sae(folder / "theirs", "saelens", cache, folder / "imported")


def test_an_autoencoder_is_exported_with_unit_rows_and_rescaled_activations(tiny_cache: Path, tmp_path: Path) -> None:
    """The export already applies the rescaling of `from_pretrained`, which leaves x_hat as it is."""
    norms = 0.5 + torch.rand(D_SAE, generator=torch.Generator().manual_seed(3))
    run = imported(tmp_path, tiny_cache, norms)
    w = torch.load(export_sae(run, "dictionary_learning", tmp_path / "out") / "ae.pt", weights_only=True)
    torch.testing.assert_close(w["decoder.weight"].norm(dim=0), torch.ones(D_SAE))
    ours, x = load(run), rows(100, D_IN, 2, 0.0)
    acts = ((x - w["bias"]) @ w["encoder.weight"].T + w["encoder.bias"]).relu()
    torch.testing.assert_close(acts, ours.encode(x) * norms, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(acts @ w["decoder.weight"].T + w["bias"], ours(x), rtol=1e-5, atol=1e-5)


def test_a_latent_with_a_zero_decoder_row_cannot_be_exported_there(tiny_cache: Path, tmp_path: Path) -> None:
    run = imported(tmp_path, tiny_cache, torch.ones(D_SAE).index_fill(0, torch.tensor([5, 7]), 0.0))
    with pytest.raises(ConfigError, match=r"rows of latents \[5, 7\] are zero.*\n  hint: use --to saelens"):
        export_sae(run, "dictionary_learning", tmp_path / "out")
    assert load(export_sae(run, "saelens", tmp_path / "out")).d_sae == D_SAE


def test_sparsify_s_formula_reproduces_the_run(tiny_cache: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, "topk", tiny_cache, mean=20.0)
    out = export_sae(run, "sparsify", tmp_path / "out")
    assert sorted(file_sizes(out)) == ["config.json", "layers.1/cfg.json", "layers.1/sae.safetensors"]
    w, ours, x = load_file(out / "layers.1" / "sae.safetensors"), load(run), rows(100, D_IN, 2, 20.0)
    assert w["W_dec"].shape == w["encoder.weight"].shape == (D_SAE, D_IN)
    kept = ((x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]).relu().topk(K, dim=-1)
    acts = torch.zeros(len(x), D_SAE).scatter(-1, kept.indices, kept.values)
    torch.testing.assert_close(ours.encode(x), acts, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours(x), acts @ w["W_dec"] + w["b_dec"], rtol=1e-5, atol=1e-5)
    assert json.loads((out / "layers.1" / "cfg.json").read_text()) == {
        "activation": "topk",
        "expansion_factor": 2,
        "normalize_decoder": True,
        "num_latents": D_SAE,
        "k": K,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": D_IN,
    }
    config = json.loads((out / "config.json").read_text())
    assert (config["model"], config["ctx_len"], config["init_seeds"], config["hookpoints"]) == (
        "made up",
        16,
        [0],
        ["layers.1"],
    )


@pytest.mark.parametrize(
    ("name", "described"),
    [
        ("relu", "a relu"),
        ("jumprelu", "a jumprelu"),
        ("gated", "a gated"),
        ("batch_topk", r"a jumprelu \(trained as a batch_topk\)"),
        ("matryoshka_batch_topk", r"a jumprelu \(trained as a matryoshka_batch_topk\)"),
    ],
)
def test_sparsify_supports_only_topk(tiny_cache: Path, tmp_path: Path, name: str, described: str) -> None:
    with pytest.raises(
        ConfigError, match=f"supports only topk, but this SAE is {described}\n  hint: use --to saelens or dict"
    ):
        export_sae(make_run(tmp_path, name, tiny_cache), "sparsify", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize("library", ["dictionary_learning", "sparsify"])
def test_only_saelens_has_matching_pursuit(tiny_cache: Path, tmp_path: Path, library: Library) -> None:
    run = random_run(tmp_path / "run", "matching_pursuit", tiny_cache)
    with pytest.raises(ConfigError, match=r"a matching_pursuit\n  hint: use --to saelens$"):
        export_sae(run, library, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_saelens_export_has_the_run_s_weights_and_all_keys(tiny_cache: Path, tmp_path: Path, name: str) -> None:
    run = make_run(tmp_path, name, tiny_cache)
    out = export_sae(run, "saelens", tmp_path / "out")
    assert (out / saelens.WEIGHTS).read_bytes() == (run / "sae" / saelens.WEIGHTS).read_bytes()
    config = json.loads((out / saelens.CONFIG).read_text())
    common = {"architecture", "d_in", "d_sae", "dtype", "device", "apply_b_dec_to_input", "normalize_activations"}
    own = {"k", "rescale_acts_by_decoder_norm"} if name == "topk" else set()
    assert config.keys() == common | own | {"reshape_activations", "metadata"}
    expected = {"sae_lens_version": "6.54.12", "sae_lens_training_version": None, "model_name": "made up"}
    expected |= {"hook_name": HOOK, "hook_head_index": None, "context_size": 16, "prepend_bos": True}
    expected |= {"model_class_name": "HookedTransformer", "model_from_pretrained_kwargs": {}, "neuronpedia_id": None}
    expected |= {"seqpos_slice": [None], "exclude_special_tokens": True, "dataset_path": None, "l0": None}
    assert {key: config["metadata"][key] for key in expected} == expected
    assert (config["metadata"]["training_architecture"], sorted(file_sizes(out))) == (
        name,
        sorted(file_sizes(run / "sae")),
    )


def test_an_evaluated_run_is_exported_with_its_density(tiny_cache: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, "relu", tiny_cache)
    density = torch.linspace(0, 1, D_SAE, dtype=torch.float64)
    write_evaluation(run, density.tolist())
    out = export_sae(run, "saelens", tmp_path / "out")
    sparsity = load_file(out / "sparsity.safetensors")["sparsity"]
    torch.testing.assert_close(sparsity.double(), (density + 1e-10).log10(), rtol=1e-6, atol=1e-6)
    assert sparsity[0] == -10
    assert json.loads((out / "cfg.json").read_text())["metadata"]["l0"] == 4.5


def test_an_evaluation_of_another_run_is_ignored_and_a_malformed_one_reported(tiny_cache: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, "relu", tiny_cache)
    write_evaluation(run, [0.5] * D_SAE)
    path = run / "eval" / "core.json"
    path.write_text(path.read_text().replace(open_run(run).fingerprint, "of another"))
    assert "sparsity.safetensors" not in file_sizes(export_sae(run, "saelens", tmp_path / "out"))
    path.write_text("{}")
    with pytest.raises(CorruptDataError, match="measures it again"):
        export_sae(run, "saelens", tmp_path / "another")


def test_saelens_metadata_of_an_imported_sae_is_exported_again(tiny_cache: Path, tmp_path: Path) -> None:
    out = export_sae(imported(tmp_path, tiny_cache, torch.ones(D_SAE)), "saelens", tmp_path / "out")
    metadata = json.loads((out / "cfg.json").read_text())["metadata"]
    assert (metadata["prepend_bos"], metadata["neuronpedia_id"]) == (False, "made-up/1")


def test_the_exported_layer_is_the_one_whose_output_the_sae_reads(tmp_path: Path) -> None:
    """`blocks.3.hook_resid_pre` is the output of layer 2; `blocks.0.hook_resid_pre` is not the output of a layer."""
    pre, first, mlp = "blocks.3.hook_resid_pre", "blocks.0.hook_resid_pre", "blocks.1.hook_mlp_out"
    for hook in (pre, first, mlp):
        cache = write_cache(tmp_path / hook / "cache", {hook: structured_rows(600, D_IN)})
        make_run(tmp_path / hook, "topk", cache)
    out = export_sae(tmp_path / pre / "run", "dictionary_learning", tmp_path / "dl")
    assert json.loads((out / "config.json").read_text())["trainer"]["submodule_name"] == "resid_post_layer_2"
    assert (export_sae(tmp_path / pre / "run", "sparsify", tmp_path / "sparsify") / "layers.2").is_dir()
    libraries: list[Library] = ["dictionary_learning", "sparsify"]
    for hook in (first, mlp):
        for library in libraries:
            with pytest.raises(ConfigError, match=f"{library} places an SAE by .* {hook} is not a layer's output"):
                export_sae(tmp_path / hook / "run", library, tmp_path / "none")
        assert load(export_sae(tmp_path / hook / "run", "saelens", tmp_path / f"{hook}-out")).hook == hook


@pytest.mark.parametrize("library", sorted(WRITERS.keys() - {"circuit-tracer"}))
def test_repeating_an_export_changes_nothing_and_another_is_refused(
    tiny_cache: Path, tmp_path: Path, library: Library
) -> None:
    run, other = (make_run(tmp_path / name, "topk", tiny_cache, seed=seed) for seed, name in enumerate(("a", "b")))
    (tmp_path / "out").mkdir()
    out = export_sae(run, library, tmp_path / "out")
    before = content(out)
    assert export_sae(open_run(run), library, out) == out
    assert content(out) == before
    assert file_sizes(out) == {name: len(data) for name, (data, _) in before.items()}
    with pytest.raises(ConfigError, match="out holds something else"):
        export_sae(other, library, out)
    assert content(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "out"]


def test_only_finished_runs_are_exported_and_only_into_folders(tiny_cache: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, "relu", tiny_cache)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for out in ("file", "link"):
        with pytest.raises(ConfigError, match=f"{out} is not a folder"):
            export_sae(run, "saelens", tmp_path / out)
    with pytest.raises(ConfigError, match="holds something else"):
        export_sae(run, "saelens", run)
    (run / COMMITTED).unlink()
    with pytest.raises(CorruptDataError, match="is not finished"):
        export_sae(run, "saelens", tmp_path / "out")
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "out").exists()
