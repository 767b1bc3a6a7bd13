"""Models whose predictions see later tokens are refused, by what they do; every causal family passes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel, Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedModel

from helpers.interrupted_harvests import changed
from saepipe.data.errors import ConfigError
from saepipe.harvest.causality import check_causal
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.model import LanguageModel, load_model
from saepipe.harvest.model_config import ModelConfig
from saepipe.harvest.plan import plan
from saepipe.harvest.run import harvest
from tests.helpers.families import FAMILIES, LLAMA, VOCAB, model_of
from tests.helpers.small_models import HEADS, SMALL

pytestmark = pytest.mark.quick

IDS = torch.randint(8, VOCAB, (1, 48), generator=torch.Generator().manual_seed(0))


def language_model(model: PreTrainedModel) -> LanguageModel:
    return LanguageModel(model.eval(), load_model(ModelConfig(device="cpu")).tokenizer, ModelConfig(model="made"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_causal_families_pass(family: str, dtype: torch.dtype) -> None:
    check_causal(language_model(copy.deepcopy(model_of(family)).to(dtype)), IDS)


def bert(*, decoder: bool) -> PreTrainedModel:
    """Untrained, so that its tokens hardly see each other: the least that must be found."""
    torch.manual_seed(0)
    return BertLMHeadModel(BertConfig(**SMALL, num_attention_heads=2, is_decoder=decoder))


def gemma(*, bidirectional: bool) -> PreTrainedModel:
    torch.manual_seed(0)
    return Gemma3ForCausalLM(Gemma3TextConfig(**{**LLAMA, "use_bidirectional_attention": bidirectional}))


def test_a_model_that_attends_both_ways_is_refused() -> None:
    for model in (bert(decoder=False), gemma(bidirectional=True)):
        with pytest.raises(
            ConfigError, match=r"'made' is not causal: other tokens from position 24 on change its logits"
        ):
            check_causal(language_model(model), IDS)
    for model in (bert(decoder=True), gemma(bidirectional=False)):
        check_causal(language_model(model), IDS)


def test_a_long_window_is_cut_and_a_short_one_enough() -> None:
    lm = language_model(gemma(bidirectional=True))
    for ids in (IDS.repeat(1, 20), IDS[:, :2]):
        with pytest.raises(ConfigError, match="is not causal"):
            check_causal(lm, ids)


def test_a_harvest_and_its_plan_refuse_it_before_anything_is_written(toy_config: HarvestConfig, tmp_path: Path) -> None:
    model, out = tmp_path / "model", tmp_path / "cache"
    settings = {**SMALL, **HEADS, "vocab_size": 4096, "use_bidirectional_attention": True}
    Gemma3ForCausalLM(Gemma3TextConfig(**settings)).save_pretrained(model)
    load_model(ModelConfig(device="cpu")).tokenizer.save_pretrained(model)
    config = changed(
        toy_config, model={**toy_config.model.to_dict(), "model": str(model)}, hooks=["blocks.1.hook_resid_post"]
    )
    with pytest.raises(ConfigError, match="is not causal"):
        plan(config, out)
    with pytest.raises(ConfigError, match="is not causal"):
        harvest(config, out)
    assert not (out / "zarr.json").exists()
