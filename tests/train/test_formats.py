"""Readers of other libraries' folders: the same function as theirs, and a clear refusal of what we do not know."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from elsewhere import D_IN, D_SAE, K, decode, drawn, encode, scope, scope_2, sparsify_folder, tensors, write
from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.train.formats import dictionary_learning, gemma_scope, saelens, sparsify
from saepipe.train.formats.rewrites import b_dec_left_in, b_dec_subtracted
from saepipe.train.formats.source import Source
from saepipe.train.sae.gated import Gated


@pytest.fixture
def rows() -> Tensor:
    return drawn(300, D_IN, seed=9, scale=2.0)


def check_function(source: Source, rows: Tensor, acts: Tensor, x_hat: Tensor) -> None:
    """Both are those that are expected, and the latents are neither all on nor all off."""
    found = source.sae.encode(source.params, rows)
    assert 0.01 < (acts > 0).float().mean() < 0.9
    torch.testing.assert_close(found, acts)
    assert torch.equal(found > 0, acts > 0)
    torch.testing.assert_close(source.sae.decode(source.params, acts), x_hat)


@pytest.mark.parametrize("kind", dictionary_learning.KEYS)
def test_a_dictionary_means_to_us_what_it_means_to_its_library(tmp_path: Path, rows: Tensor, kind: str) -> None:
    source = dictionary_learning.source(write(tmp_path / "trainer_4", kind))
    acts = encode(kind, tensors(kind), rows)
    check_function(source, rows, acts, decode(kind, tensors(kind), acts))
    assert (source.name, source.seed, source.layer, source.model) == ("trainer_4", 3, 1, "EleutherAI/Toy")
    assert source.hook == "blocks.1.hook_resid_post"
    assert source.said["buffer"]["ctx_len"] == 128


def test_autoencoder_decoder_rows_become_unit_and_the_function_stays(tmp_path: Path, rows: Tensor) -> None:
    """from_pretrained's folding; a latent without a decoder row is left alone, where the library would divide by 0."""
    changed = tensors("AutoEncoder")["decoder.weight"].clone()
    changed[:, 5] = 0
    source = dictionary_learning.source(write(tmp_path, "AutoEncoder", {"decoder.weight": changed}))
    norms = source.params["W_dec"].norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(D_SAE).index_fill(0, torch.tensor([5]), 0.0))
    w = tensors("AutoEncoder")
    p = ((rows - w["bias"]) @ w["encoder.weight"].T + w["encoder.bias"]).relu()
    x_hat = source.sae.decode(source.params, source.sae.encode(source.params, rows))
    torch.testing.assert_close(x_hat, p @ changed.T + w["bias"], rtol=1e-5, atol=1e-4)


def test_an_older_topk_has_no_threshold(tmp_path: Path) -> None:
    assert dictionary_learning.source(write(tmp_path, "AutoEncoderTopK", {"threshold": None})).sae.num_active == K


@pytest.mark.parametrize("kind", ["BatchTopKSAE", "MatryoshkaBatchTopKSAE"])
@pytest.mark.parametrize("threshold", [-1.0, float("nan")])
def test_a_batch_topk_without_a_threshold_is_refused(tmp_path: Path, kind: str, threshold: float) -> None:
    with pytest.raises(ConfigError, match="none was set"):
        dictionary_learning.source(write(tmp_path, kind, {"threshold": torch.tensor(threshold)}))


@pytest.mark.parametrize(
    ("submodule", "io", "hook"),
    [
        (None, "out", None),
        (None, "in", "blocks.1.hook_resid_pre"),
        ("resid_pre_layer_1", "out", "blocks.1.hook_resid_pre"),
        ("mlp_out_layer_1", "out", "blocks.1.mlp_out_layer_1"),
        ("residual", "out", None),
    ],
)
def test_where_a_dictionary_was_trained(tmp_path: Path, submodule: str | None, io: str, hook: str | None) -> None:
    folder = write(tmp_path, "AutoEncoder", submodule_name=submodule)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"buffer": {"io": io}}))
    assert dictionary_learning.source(folder).hook == hook


@pytest.mark.parametrize(
    ("changed", "trainer", "words"),
    [
        ({}, {"dict_class": "CrossCoder"}, "'CrossCoder'\n  hint: known: AutoEncoder, AutoEncoderTopK"),
        ({}, {"k": 7}, "says k = 6, config.json says k = 7"),
        ({}, {"dict_size": 80}, "dict_size 40; config.json says 24, 80"),
        ({"b_dec": None}, {}, "it has no b_dec"),
        ({"log_threshold": torch.zeros(())}, {}, "log_threshold besides"),
        ({"b_dec": torch.zeros(23)}, {}, r"b_dec of a AutoEncoderTopK has shape \(23,\), not \(24,\)"),
        ({"decoder.weight": torch.zeros(40, 24)}, {}, r"shape \(40, 24\), not \(24, 40\)"),
        ({"encoder.weight": None}, {}, "encoder.weight is not in it as a matrix, but "),
        ({"k": torch.tensor(41)}, {"k": 41}, "k = 41 is more than d_sae = 40"),
    ],
)
def test_dictionaries_that_we_do_not_know_are_refused(
    tmp_path: Path, changed: dict[str, Tensor | None], trainer: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        dictionary_learning.source(write(tmp_path, "AutoEncoderTopK", changed, **trainer))


class Harmful:
    """A pickle that would make a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickles_and_torn_files_are_not_loaded(tmp_path: Path) -> None:
    folder = write(tmp_path / "ae", "AutoEncoder")
    torch.save({"bias": Harmful(tmp_path / "harm")}, folder / "ae.pt")
    with pytest.raises(CorruptDataError, match="plain tensors"):
        dictionary_learning.source(folder)
    assert not (tmp_path / "harm").exists()
    torch.save([torch.zeros(3)], folder / "ae.pt")
    with pytest.raises(ConfigError, match="holds a list"):
        dictionary_learning.source(folder)
    (folder / "ae.pt").write_bytes(b"torn")
    with pytest.raises(CorruptDataError):
        dictionary_learning.source(folder)
    (folder / "ae.pt").unlink()
    with pytest.raises(ConfigError, match=r"ae\.pt is missing"):
        dictionary_learning.source(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CorruptDataError, match="not JSON"):
        dictionary_learning.source(folder)
    (folder / "config.json").write_text('{"trainer": []}')
    with pytest.raises(ConfigError, match="dict_class is None"):
        dictionary_learning.source(folder)


@pytest.mark.parametrize("change", [str, str.lower])
def test_gemma_scope_means_to_us_what_its_authors_say(
    tmp_path: Path, rows: Tensor, change: Callable[[str], str]
) -> None:
    source = gemma_scope.source(scope(tmp_path / "layer_3" / "average_l0_7" / "params.npz", change).parent)
    w = tensors("JumpReluAutoEncoder")
    p = rows @ w["W_enc"] + w["b_enc"]
    acts = (p > w["threshold"]) * p.relu()
    check_function(source, rows, acts, acts @ w["W_dec"] + w["b_dec"])
    assert (source.name, source.layer, source.hook, source.model) == ("layer_3-average_l0_7", 3, None, None)


@pytest.mark.parametrize(
    ("path", "name", "hook", "model"),
    [
        (
            "gemma-scope-2b-pt-res/layer_20/average_l0_71",
            "layer_20-average_l0_71",
            "blocks.20.hook_resid_post",
            "google/gemma-2-2b",
        ),
        (
            "models--google--gemma-scope-9b-it-res/snapshots/0a/layer_9/average_l0_4",
            "layer_9-average_l0_4",
            "blocks.9.hook_resid_post",
            "google/gemma-2-9b-it",
        ),
        (
            "gemma-scope-27b-pt-att/layer_2/canonical",
            "layer_2",
            "blocks.2.attn.hook_z",
            "google/gemma-2-27b",
        ),
        ("gemma-scope-2b-pt-transcoders/layer_2", "layer_2", "blocks.2.transcoders", "google/gemma-2-2b"),
        ("gemma-scope-2b-pt-res/embedding/average_l0_5", "average_l0_5", "hook_embed", "google/gemma-2-2b"),
        ("mine", "mine", None, None),
    ],
)
def test_the_path_of_gemma_scope_is_its_config(
    tmp_path: Path, path: str, name: str, hook: str | None, model: str | None
) -> None:
    source = gemma_scope.source(scope(tmp_path / path / "params.npz"))
    assert (source.name, source.hook, source.model) == (name, hook, model)


@pytest.mark.parametrize(
    ("width", "num_latents"),
    [("4k", 4096), ("16k", 2**14), ("65k", 2**16), ("131k", 2**17), ("524k", 2**19), ("1m", 2**20), ("odd", None)],
)
def test_the_width_in_a_path(width: str, num_latents: int | None) -> None:
    assert gemma_scope._num_latents(width) == num_latents


def test_other_archives_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has 40 latents, but its path says width_16k \(16,384\)"):
        gemma_scope.source(scope(tmp_path / "width_16k" / "params.npz"))
    with pytest.raises(ConfigError, match="affine_skip_connection besides"):
        gemma_scope.source(scope(tmp_path / "skip" / "params.npz", affine_skip_connection=np.zeros((24, 24))))
    with pytest.raises(ConfigError, match=r"threshold of a Gemma Scope SAE has shape \(39,\), not \(40,\)"):
        gemma_scope.source(scope(tmp_path / "short" / "params.npz", threshold=np.zeros(39)))
    with pytest.raises(ConfigError, match="W_enc is not in it as a matrix"):
        gemma_scope.source(scope(tmp_path / "none" / "params.npz", W_enc=np.zeros(3)))
    with pytest.raises(CorruptDataError, match="allow_pickle"):
        gemma_scope.source(scope(tmp_path / "pickle" / "params.npz", W_enc=np.array([{}])))
    with pytest.raises(ConfigError, match=r"params\.npz is missing"):
        gemma_scope.source(tmp_path)
    (tmp_path / "params.npz").write_bytes(b"PK\3\4torn")
    with pytest.raises(CorruptDataError):
        gemma_scope.source(tmp_path)


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    return sparsify_folder(tmp_path / "my run" / "layers.1")


def test_sparsify_means_to_us_what_it_means_to_its_library(sparse: Path, rows: Tensor) -> None:
    w = load_file(sparse / "sae.safetensors")
    kept = ((rows - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]).relu().topk(K, dim=-1)
    acts = torch.zeros(len(rows), D_SAE).scatter(-1, kept.indices, kept.values)
    source = sparsify.source(sparse)
    check_function(source, rows, acts, acts @ w["W_dec"] + w["b_dec"])
    assert (source.name, source.hook, source.model, source.seed) == ("my run", "blocks.1.hook_resid_post", None, None)


def test_sparsify_s_sizes_and_dtypes(tmp_path: Path) -> None:
    """`num_latents` 0 means `expansion_factor` times d_in; settings of training alone do not matter."""
    folder = sparsify_folder(
        tmp_path / "layers.1", d_sae=2 * D_IN, dtype=torch.bfloat16, num_latents=0, expansion_factor=2, multi_topk=True
    )
    source = sparsify.source(folder)
    assert (source.sae.d_sae, source.params["W_enc"].shape) == (48, (D_IN, 48))
    assert {value.dtype for value in source.params.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("place", "hook", "seed"),
    [
        ("run/layers.3", "blocks.3.hook_resid_post", 5),
        ("run/layers.3/seed7", "blocks.3.hook_resid_post", 7),
        ("run/h.2", "blocks.2.hook_resid_post", 5),
        ("run/language_model.layers.2", "blocks.2.hook_resid_post", 5),
        ("run/layers.3.mlp", "blocks.3.mlp", 5),
        ("run/embed_tokens", None, 5),
    ],
)
def test_where_a_sparsify_sae_was_trained(tmp_path: Path, place: str, hook: str | None, seed: int) -> None:
    folder = sparsify_folder(tmp_path / place)
    (tmp_path / "run" / "config.json").write_text('{"model": "org/toy", "init_seeds": [5]}')
    source = sparsify.source(folder)
    assert (source.name, source.hook, source.seed, source.model) == ("run", hook, seed, "org/toy")


def test_several_sparsify_saes_are_told_apart(tmp_path: Path) -> None:
    for place in ("layers.3/seed0", "layers.3/seed1", "layers.9/seed0"):
        sparsify_folder(tmp_path / place)
    listed = "holds 3 SAEs: layers.3/seed0, layers.3/seed1, layers.9/seed0\n  hint: one at a time: .*layers.3/seed0"
    with pytest.raises(ConfigError, match=listed):
        sparsify.source(tmp_path)
    with pytest.raises(ConfigError, match="holds 2 SAEs: seed0, seed1"):
        sparsify.source(tmp_path / "layers.3")
    with pytest.raises(ConfigError, match=r"cfg\.json is missing"):
        sparsify.source(tmp_path / "layers.9" / "seed5")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"activation": "groupmax"}, "activation is 'groupmax': the largest of each of k groups"),
        ({"transcode": True}, "transcode is True: it is a transcoder"),
        ({"skip_connection": True}, "skip_connection is True: it adds a linear map"),
        ({"signed": True}, "signed is True: it takes the largest by absolute value"),
        ({"k": None}, "does not say k"),
        ({"k": 41}, "k = 41 is more than d_sae = 40"),
        ({"num_latents": 48}, r"has shape \(40, 24\), not \(48, 24\)"),
    ],
)
def test_sparsify_saes_that_we_do_not_have_are_refused(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        sparsify.source(sparsify_folder(tmp_path / "layers.1", **config))


def test_other_tensors_and_torn_files_are_refused(sparse: Path) -> None:
    weights = load_file(sparse / "sae.safetensors")
    save_file(weights | {"W_skip": torch.zeros(D_IN, D_IN)}, sparse / "sae.safetensors")
    with pytest.raises(ConfigError, match="W_skip besides"):
        sparsify.source(sparse)
    (sparse / "sae.safetensors").write_bytes(b"torn")
    with pytest.raises(CorruptDataError):
        sparsify.source(sparse)
    (sparse / "sae.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"sae\.safetensors is missing"):
        sparsify.source(sparse)


def test_gemma_scope_2_means_to_us_what_its_authors_say(tmp_path: Path, rows: Tensor) -> None:
    """b_dec is not taken from x; the folder and the file in it are the same SAE."""
    folder = scope_2(tmp_path / "resid_post" / "layer_9_width_16k_l0_small")
    w = tensors("JumpReluAutoEncoder")
    p = rows @ w["W_enc"] + w["b_enc"]
    acts = (p > w["threshold"]) * p.relu()
    for path in (folder, folder / "params.safetensors"):
        source = gemma_scope.source(path)
        check_function(source, rows, acts, acts @ w["W_dec"] + w["b_dec"])
        assert (source.name, source.layer) == ("layer_9_width_16k_l0_small", 9)
        assert (source.hook, source.model) == ("blocks.9.hook_resid_post", "google/gemma-3-1b-pt")
        assert source.said["l0"] == 7


@pytest.mark.parametrize(
    ("point", "hook"),
    [
        ("model.language_model.layers.3.output", "blocks.3.hook_resid_post"),
        ("model.layers.3.self_attn.o_proj.input", "blocks.3.attn.hook_z"),
        ("model.layers.3.post_feedforward_layernorm.output", "blocks.3.hook_mlp_out"),
        ("model.layers.3.something.output", "blocks.3.something.output"),
        (None, None),
    ],
)
def test_where_a_gemma_scope_2_sae_was_trained(tmp_path: Path, point: str | None, hook: str | None) -> None:
    folder = scope_2(tmp_path / "some", hf_hook_point_in=point, hf_hook_point_out=point)
    assert gemma_scope.source(folder).hook == hook


@pytest.mark.parametrize(
    ("said", "model"),
    [
        ("gemma-v3-1b-it", "google/gemma-3-1b-it"),
        ("google/gemma-3-270m-pt", "google/gemma-3-270m"),
        ("google/gemma-3-270m-it", "google/gemma-3-270m-it"),
        (None, None),
    ],
)
def test_what_gemma_scope_2_calls_its_models(tmp_path: Path, said: str | None, model: str | None) -> None:
    assert gemma_scope.source(scope_2(tmp_path / "some", model_name=said)).model == model


def test_transcoders_and_others_of_gemma_scope_2_are_refused(tmp_path: Path) -> None:
    out = {"hf_hook_point_out": "model.layers.9.post_feedforward_layernorm.output"}
    transcoders: list[tuple[dict[str, Any], str]] = [
        ({"more": {"affine_skip_connection": torch.zeros(24, 24)}}, "affine_skip_connection in params.safetensors"),
        ({"affine_connection": True}, r"affine_connection in config\.json"),
        ({"type": "transcoder"}, "type 'transcoder'"),
        (out, "hf_hook_point_out model.layers.9.post_feedforward_layernorm.output"),
    ]
    for number, (change, words) in enumerate(transcoders):
        with pytest.raises(ConfigError, match=f"holds a transcoder or crosscoder, and no SAE .*{words}"):
            gemma_scope.source(scope_2(tmp_path / f"transcoder {number}", **change))
    others: list[tuple[dict[str, Any], str]] = [
        ({"architecture": "topk"}, "architecture is 'topk'\n  hint: known: jump_relu"),
        ({"width": 48}, "has 40 latents; config.json says width 48"),
        ({"more": {"w_enc": torch.zeros(3)}}, "w_enc is not in it as a matrix"),
        ({"more": {"extra": torch.zeros(3)}}, "extra besides"),
    ]
    for number, (change, words) in enumerate(others):
        with pytest.raises(ConfigError, match=words):
            gemma_scope.source(scope_2(tmp_path / f"other {number}", **change))
    torn = scope_2(tmp_path / "torn")
    (torn / "params.safetensors").write_bytes(b"torn")
    with pytest.raises(CorruptDataError):
        gemma_scope.source(torn)
    (torn / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"config\.json is missing"):
        gemma_scope.source(torn)


def test_taking_b_dec_out_and_leaving_it_in_undo_each_other() -> None:
    """Of a gated SAE too, whose magnitude is shifted by exp(r_mag) times as much."""
    sae, rng = Gated(d_sae=D_SAE), torch.Generator().manual_seed(1)
    params = {name: torch.randn(value.shape, generator=rng) for name, value in sae.init(D_IN, 1, rng).items()}
    params["W_enc"] *= 0.2
    there = b_dec_left_in(params)
    for name, value in b_dec_subtracted(there).items():
        torch.testing.assert_close(value, params[name], rtol=1e-6, atol=1e-6)
    x = drawn(100, D_IN, seed=4)
    zero = there | {"b_dec": torch.zeros(D_IN)}
    torch.testing.assert_close(sae.encode(zero, x), sae.encode(params, x), rtol=1e-4, atol=1e-4)


def test_the_shift_is_exact_in_float64() -> None:
    """Beside a long b_dec, float32 sums would lose what is small."""
    params = {"W_enc": drawn(512, 30, seed=1), "b_enc": drawn(30, seed=2), "b_dec": drawn(512, seed=3, scale=1e3)}
    expected = params["b_enc"].double() + params["b_dec"].double() @ params["W_enc"].double()
    assert torch.equal(b_dec_subtracted(params)["b_enc"], expected.float())


def older(folder: Path, weights: dict[str, Tensor], **config: Any) -> Path:
    """A folder of SAELens 3 to 5: one flat mapping."""
    folder.mkdir()
    save_file(weights, folder / "sae_weights.safetensors")
    said = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "float32", "model_name": "gpt2-small", "hook_layer": 1}
    said |= {"hook_name": "blocks.1.hook_resid_pre", "sae_lens_training_version": None, "normalize_activations": False}
    (folder / "cfg.json").write_text(json.dumps(said | config))
    return folder


def test_saelens_folders_from_before_its_version_6(tmp_path: Path, rows: Tensor) -> None:
    theirs = tensors("MatryoshkaBatchTopKSAE")
    w = {name: theirs[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    plain = saelens.source(older(tmp_path / "plain", {**w, "scaling_factor": torch.ones(D_SAE)}))
    acts = ((rows - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    check_function(plain, rows, acts, acts @ w["W_dec"] + w["b_dec"])
    assert (plain.name, plain.model, plain.hook) == ("plain", "gpt2-small", "blocks.1.hook_resid_pre")
    topk = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}, "apply_b_dec_to_input": False}
    kept = (rows @ w["W_enc"] + w["b_enc"]).topk(K, dim=-1)
    acts = torch.zeros(len(rows), D_SAE).scatter(-1, kept.indices, kept.values.relu())
    check_function(saelens.source(older(tmp_path / "topk", w, **topk)), rows, acts, acts @ w["W_dec"] + w["b_dec"])


def test_older_folders_whose_activations_go_through_more_are_refused(tmp_path: Path) -> None:
    theirs = tensors("MatryoshkaBatchTopKSAE")
    w = {name: theirs[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    with pytest.raises(ConfigError, match="activation_fn is 'tanh-relu'"):
        saelens.source(older(tmp_path / "tanh", w, activation_fn_str="tanh-relu"))
    with pytest.raises(ConfigError, match="scaling_factor other than 1"):
        saelens.source(older(tmp_path / "scaled", {**w, "scaling_factor": torch.full((D_SAE,), 1.1)}))
    with pytest.raises(ConfigError, match="expected_average_only_in"):
        saelens.source(older(tmp_path / "normalised", w, normalize_activations=True))
    with pytest.raises(ConfigError, match="hook_z"):
        saelens.source(older(tmp_path / "heads", w, hook_name="blocks.1.attn.hook_z"))
    with pytest.raises(ConfigError, match="architecture is 'batchtopk'\n  hint: known: standard, topk"):
        saelens.source(older(tmp_path / "checkpoint", w, architecture="batchtopk"))
    folder = older(tmp_path / "bare", w)
    (folder / "cfg.json").write_text('{"d_sae": 40, "sae_lens_version": "6.1.0"}')
    with pytest.raises(ConfigError, match="does not say architecture, d_in"):
        saelens.source(folder)
