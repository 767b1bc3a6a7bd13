"""Device maps, quantised weights, and code that comes with a model: what is loaded, recorded and refused."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers.dynamic_module_utils as dynamic

from helpers.interrupted_harvests import changed
from saepipe.data.cache.cache import Cache
from saepipe.data.errors import ConfigError, MachineError
from saepipe.data.toy import MODEL_DIR
from saepipe.evaluate.model.config import ModelSettings
from saepipe.evaluate.model.language_model import load_model_of
from saepipe.evaluate.model.testbed import Passes
from saepipe.evaluate.model.testbeds import Testbeds
from saepipe.evaluate.texts.token_texts import token_texts
from saepipe.harvest import large_models
from saepipe.harvest.capture import capture
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.hook_point import HookPoint
from saepipe.harvest.model import LanguageModel, load_model
from saepipe.harvest.model_config import ModelConfig
from saepipe.harvest.run import harvest
from saepipe.harvest.text_check import check_text

IDS = torch.randint(5, 4000, (3, 24), generator=torch.Generator().manual_seed(0))
HOOKS = [HookPoint.parse(f"blocks.{hook}") for hook in ("0.hook_resid_post", "1.attn.hook_z", "3.hook_mlp_out")]
ON_CPU = dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
SPLIT: dict[str, Any] = {**ON_CPU, **{f"model.layers.{layer}": ("cpu", "disk")[layer % 2] for layer in range(4)}}


def load(**settings: Any) -> LanguageModel:
    return load_model(ModelConfig.parse({"dtype": "float32", **settings}))


@pytest.fixture(scope="module")
def plain() -> LanguageModel:
    return load(device="cpu")


@pytest.fixture(scope="module")
def base(toy_config: HarvestConfig) -> HarvestConfig:
    sizes = {"num_tokens": 1500, "heldout_tokens": 256, "shard_rows": 512, "chunk_rows": 256, "batch_size": 4}
    return changed(toy_config, hooks=["blocks.1.hook_resid_post", "blocks.1.hook_mlp_out"], context_size=32, **sizes)


def with_model(config: HarvestConfig, **settings: Any) -> HarvestConfig:
    return changed(config, model={"dtype": "float32", **settings})


def test_the_keys_are_no_part_of_settings_that_leave_them_at_their_defaults() -> None:
    assert not ModelConfig().to_dict().keys() & {"device_map", "quantization", "trust_remote_code"}
    stated = {"device_map": {"": "cpu"}, "quantization": "8bit", "trust_remote_code": True}
    assert ModelConfig.parse(stated).to_dict().items() >= stated.items()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"device": "cpu", "device_map": "auto"}, "device cpu and device_map exclude each other"),
        ({"device_map": {"": "gpu"}}, "'gpu' is no place for a module"),
        ({"device_map": "even"}, "device_map"),
        ({"quantization": "3bit"}, "quantization"),
        ({"quantization": "8bit", "gguf_file": "a.gguf"}, "leave out quantization"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        ModelConfig.parse(settings)


@pytest.mark.parametrize("settings", [{"device_map": "auto"}, {"quantization": "4bit"}], ids=str)
def test_a_missing_package_is_named_before_anything_is_loaded(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = "accelerate" if "device_map" in settings else "bitsandbytes"
    monkeypatch.setattr(large_models, "find_spec", lambda name: None if name == missing else name)
    with pytest.raises(MachineError, match=f"needs the package {missing}, which is not installed") as raised:
        load(**settings)
    assert raised.value.hint == "pip install 'saepipe[large]'"


@pytest.mark.parametrize("device_map", ["auto", {"": "cpu"}, SPLIT], ids=["auto", "one device", "half on disk"])
def test_a_device_map_changes_no_activation(plain: LanguageModel, device_map: Any) -> None:
    pytest.importorskip("accelerate")
    lm = load(device_map=device_map)
    assert any(parameter.is_meta for parameter in lm.model.parameters()) == (device_map == SPLIT)
    expected = capture(plain.model, IDS, HOOKS)
    for _ in range(2):
        activations = capture(lm.model, IDS, HOOKS)
        assert all(torch.equal(activations[name], x) for name, x in expected.items())
    assert lm.identity == plain.identity


def test_embeddings_on_no_device_are_refused() -> None:
    pytest.importorskip("accelerate")
    with pytest.raises(ConfigError, match="device_map leaves the embeddings of 'toy' outside of every device"):
        load(device_map={"": "disk"})


def test_a_model_that_is_half_on_disk_is_harvested_and_evaluated(base: HarvestConfig, tmp_path: Path) -> None:
    """The passes take turns, since each moves weights; the upper layers run where their weights are."""
    pytest.importorskip("accelerate")
    usual = harvest(base, tmp_path / "usual")
    cache = harvest(with_model(base, device_map=SPLIT), tmp_path / "cache")
    assert cache.attributes["config"]["model"]["device_map"] == SPLIT
    for hook in base.hooks:
        assert torch.equal(cache.acts(hook)[:1500], usual.acts(hook)[:1500])
        for device in ("auto", "cpu"):
            testbed = Testbeds(ModelSettings(device=device), Passes()).at(cache, hook)
            assert testbed.language_model.config.device_map == (SPLIT if device == "auto" else None)
            assert abs(testbed.upper_layers_gap()) < 0.05
    with pytest.raises(ConfigError, match=r"device_map\.lm_head: '\(absent\)' -> 'cpu'"):
        harvest(with_model(base, device_map=SPLIT), tmp_path / "usual")


@pytest.mark.parametrize(("quantization", "error"), [("8bit", 0.03), ("4bit", 0.2)])
def test_quantised_weights_are_recorded_and_rows_depend_on_their_own_context_only(
    plain: LanguageModel, base: HarvestConfig, tmp_path: Path, quantization: str, error: float
) -> None:
    """With the outlier columns of LLM.int8, a row would depend on all contexts of its batch."""
    pytest.importorskip("bitsandbytes", reason="no bitsandbytes: pip install 'saepipe[large]'")
    lm = load(quantization=quantization)
    outlier = IDS.clone()
    with torch.no_grad():
        lm.model.get_input_embeddings().weight[7] *= 50
    outlier[1:, 4:] = 7
    rows, beside_outliers = capture(lm.model, IDS[:2], HOOKS), capture(lm.model, outlier[:2], HOOKS)
    for name, x in rows.items():
        assert torch.equal(x[0], beside_outliers[name][0])
        assert torch.equal(x[1, :4], beside_outliers[name][1, :4])
    expected = capture(plain.model, IDS[:2], HOOKS[:1])
    for name, x in expected.items():
        assert 1e-4 < float((rows[name] - x).norm() / x.norm()) < error

    config = with_model(base, quantization=quantization)
    cache = harvest(config, tmp_path / "cache")
    harvest(changed(config, num_tokens=1600), tmp_path / "cache")
    assert cache.attributes["config"]["model"]["quantization"] == quantization
    assert cache.attributes["model"]["config"]["quantization_config"][f"load_in_{quantization}"] is True
    for dtype in (None, "bfloat16"):
        evaluated = load_model_of(cache, ModelSettings(device="cpu", dtype=dtype))
        assert evaluated.config.quantization == quantization
    with pytest.raises(ConfigError, match=f"model.quantization: '{quantization}' -> '\\(absent\\)'"):
        harvest(with_model(base), tmp_path / "cache")


CODE = """
from transformers import Gemma2Config, Gemma2ForCausalLM
from .factors import FACTOR
print("its code runs")

class MineConfig(Gemma2Config):
    model_type = "mine"

class MineForCausalLM(Gemma2ForCausalLM):
    config_class = MineConfig

    def forward(self, *inputs, **settings):
        output = super().forward(*inputs, **settings)
        output.logits = output.logits * FACTOR
        return output
"""
TOKENIZER = """
from transformers import PreTrainedTokenizerFast
print("its code runs")

class MineTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture(scope="module")
def _imported_code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps what transformers copies and imports out of the user's cache, and out of other tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        patch.setattr(sys, "path", [*sys.path])
        yield
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers_modules"]:
        del sys.modules[name]


@pytest.fixture
def own_code(tmp_path: Path, _imported_code: None) -> Path:
    """A copy of the toy with code for a model and a tokenizer that transformers does not have."""
    folder = shutil.copytree(MODEL_DIR, tmp_path / "model")
    for name, text in {"factors": "FACTOR = 1\n", "mine": CODE, "tokens": TOKENIZER}.items():
        (folder / f"{name}.py").write_text(text)
    auto_map = {"AutoModelForCausalLM": "mine.MineForCausalLM", "AutoConfig": "mine.MineConfig"}
    edit(folder / "config.json", model_type="mine", auto_map=auto_map)
    edit(
        folder / "tokenizer_config.json",
        tokenizer_class="MineTokenizer",
        auto_map={"AutoTokenizer": [None, "tokens.MineTokenizer"]},
    )
    return folder


def edit(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_a_models_own_code_runs_only_by_the_key(own_code: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="needs code of its own, which is not run unasked") as raised:
        load(model=str(own_code))
    assert raised.value.hint is not None
    assert "model.trust_remote_code" in raised.value.hint
    assert "its code runs" not in capsys.readouterr().out
    lm = load(model=str(own_code), trust_remote_code=True)
    assert type(lm.model).__name__ == lm.identity["class"] == "MineForCausalLM"
    assert type(lm.tokenizer).__name__ == "MineTokenizer"
    assert capsys.readouterr().out.count("its code runs") == 2
    assert "code" not in load(trust_remote_code=True).identity  # the toy has none


def test_other_code_is_another_model(own_code: Path) -> None:
    identities = [load(model=str(own_code), trust_remote_code=True).identity]
    for name, text in (("factors", "FACTOR = 2\n"), ("tokens", TOKENIZER + "    # it may do anything\n")):
        (own_code / f"{name}.py").write_text(text)
        identities.append(load(model=str(own_code), trust_remote_code=True).identity)
    assert len({identity.pop("code") for identity in identities}) == 3
    assert identities[0] == identities[1] == identities[2]


def test_a_cache_cannot_allow_code_by_itself(
    own_code: Path, base: HarvestConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Evaluations, the comparison with the text and the feature store need a key of their own, or do without."""
    config = with_model(base, model=str(own_code), trust_remote_code=True)
    cache = harvest(changed(config, hooks=["blocks.1.hook_resid_post"]), tmp_path / "cache")
    assert cache.attributes["config"]["model"]["trust_remote_code"] is True
    assert cache.attributes["model"]["code"]
    capsys.readouterr()
    with pytest.raises(ConfigError, match="needs code of its own"):
        load_model_of(cache, ModelSettings(device="cpu"))
    _, reason = token_texts(cache, [1, 2])
    assert reason is not None
    with pytest.raises(ConfigError, match="needs code of its own"):
        check_text(cache)
    assert "its code runs" not in capsys.readouterr().out
    trusted = load_model_of(cache, ModelSettings(device="cpu", trust_remote_code=True))
    assert trusted.identity == cache.attributes["model"] | {"revision": None}
    assert check_text(cache, trust_remote_code=True)["compared"] > 1


def test_a_key_alone_runs_nothing(base: HarvestConfig, tmp_path: Path) -> None:
    """An evaluation's key is for caches whose harvest ran the code; of others it changes nothing."""
    cache = harvest(base, tmp_path / "cache")
    lm = load_model_of(Cache.open(cache.path), ModelSettings(device="cpu", trust_remote_code=True))
    assert lm.config.trust_remote_code is False
    assert replace(lm).identity == lm.identity
