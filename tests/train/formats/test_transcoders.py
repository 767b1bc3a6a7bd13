"""Transcoders in the formats of other libraries: written, read back as they were, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from helpers.made_caches import structured_rows, write_cache
from helpers.random_runs import ARCHITECTURES, TRANSCODER_HOOKS, random_run, random_transcoder, rows
from saepipe.data.errors import ConfigError
from saepipe.train.rundir.exporting import Library, export_sae
from saepipe.train.rundir.finished_run import open_run
from saepipe.train.rundir.importing import import_sae
from saepipe.train.rundir.load import load

pytestmark = pytest.mark.quick

X, Y = TRANSCODER_HOOKS
D = 12


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hooks = (X, Y, "blocks.2.hook_mlp_out")
    return write_cache(
        tmp_path_factory.mktemp("two") / "cache", {h: structured_rows(300, D, s) for s, h in enumerate(hooks)}
    )


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("name", ["batch_topk", "jumprelu", "relu"])
def test_saelens_reads_and_gives_back_what_it_has_a_class_for(
    cache: Path, tmp_path: Path, name: str, skip: bool
) -> None:
    run = random_transcoder(tmp_path / "run", name, cache, skip=skip)
    out = export_sae(run, "saelens", tmp_path / "out")
    config = json.loads((out / "cfg.json").read_text())
    kind = "jumprelu_" if name != "relu" else ""
    assert config["architecture"] == f"{kind}{'skip_' if skip else ''}transcoder"
    assert (config["d_in"], config["d_out"], config["apply_b_dec_to_input"]) == (D, D, False)
    assert config["metadata"]["hook_name"] == "blocks.1.mlp.hook_in"
    assert config["metadata"]["hook_name_out"] == Y
    back = import_sae(out, "saelens", cache, tmp_path / "back")
    assert open_run(back).sites == f"{X} -> {Y}"
    ours, theirs, x = load(run), load(back), rows(50, D, 0, 1.0)
    assert torch.equal(ours.encode(x), theirs.encode(x))
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("name", ["batch_topk", "jumprelu", "relu"])
def test_circuit_tracer_finds_its_own_names_and_layout(cache: Path, tmp_path: Path, name: str, skip: bool) -> None:
    """Its function, by hand: it multiplies p by (p > threshold), without a ReLU."""
    run = random_transcoder(tmp_path / "run", name, cache, skip=skip)
    out = export_sae(run, "circuit-tracer", tmp_path / "out")
    assert yaml.safe_load((out / "config.yaml").read_text()) == {
        "model_kind": "transcoder_set",
        "model_name": "made up",
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "hook_mlp_out",
        "scan": None,
    }
    tensors, sae, x = load_file(out / "layer_1.safetensors"), load(run), rows(50, D, 0, 1.0)
    p = x @ tensors["W_enc"].T + tensors["b_enc"]
    acts = p * (p > tensors["activation_function.threshold"]) if name != "relu" else p.relu()
    y_hat = acts @ tensors["W_dec"] + tensors["b_dec"]
    if skip:
        y_hat = y_hat + x @ tensors["W_skip"].T
    torch.testing.assert_close(acts, sae.encode(x))
    torch.testing.assert_close(y_hat, sae(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("library", ["saelens", "circuit-tracer"])
@pytest.mark.parametrize("name", ["gated", "topk"])
def test_no_library_has_a_class_for_others(cache: Path, tmp_path: Path, library: Library, name: str) -> None:
    run = random_transcoder(tmp_path / "run", name, cache, skip=False)
    with pytest.raises(ConfigError, match=f"a {name}\\n  hint: train a batch_topk"):
        export_sae(run, library, tmp_path / "out")


@pytest.mark.parametrize("library", ["dictionary_learning", "sparsify"])
def test_formats_of_saes_hold_no_transcoders(cache: Path, tmp_path: Path, library: Library) -> None:
    run = random_transcoder(tmp_path / "run", "topk", cache, skip=True)
    with pytest.raises(
        ConfigError, match=f"an export to {library} holds SAEs, and this is a transcoder from {X} to {Y}"
    ):
        export_sae(run, library, tmp_path / "out")


def test_circuit_tracer_has_no_saes(tiny_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="circuit-tracer reads transcoders, and this is an SAE"):
        export_sae(random_run(tmp_path / "run", "relu", tiny_cache), "circuit-tracer", tmp_path / "out")


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_a_run_keeps_every_architecture(cache: Path, tmp_path: Path, name: str) -> None:
    sae = load(random_transcoder(tmp_path / "run", name, cache, skip=True))
    assert sae.is_transcoder
    assert (sae.hook, sae.target) == (X, Y)
    assert sae.architecture == ("jumprelu" if "batch_topk" in name else name)


def test_a_source_and_its_target_must_fit(cache: Path, tiny_cache: Path, tmp_path: Path) -> None:
    out = export_sae(random_transcoder(tmp_path / "run", "relu", cache, skip=False), "saelens", tmp_path / "out")
    with pytest.raises(ConfigError, match=f"reconstructs {Y}, not blocks.2.hook_mlp_out"):
        import_sae(out, "saelens", cache, tmp_path / "back", target="blocks.2.hook_mlp_out")
    config = json.loads((out / "cfg.json").read_text())
    del config["metadata"]["hook_name_out"]
    (out / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="does not say which hook the transcoder reconstructs"):
        import_sae(out, "saelens", cache, tmp_path / "back")
    run = import_sae(out, "saelens", cache, tmp_path / "back", target="blocks.2.hook_mlp_out")
    assert open_run(run).target == "blocks.2.hook_mlp_out"
    sae = export_sae(random_run(tmp_path / "sae", "relu", tiny_cache), "saelens", tmp_path / "plain")
    with pytest.raises(ConfigError, match="holds an SAE, which reconstructs its own input"):
        import_sae(sae, "saelens", tiny_cache, tmp_path / "other", target=Y)
