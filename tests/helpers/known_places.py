"""A world whose facts are known: a model made by hand that knows the country and the language of 36 places.

Its first layer does nothing. Its second adds up, at every position, what the positions so far hold in the dimensions of
countries and languages. The word before the answer says which of the two is asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HOOK = "blocks.0.hook_resid_post"
D_IN = 16
COUNTRIES, LANGUAGES = ("north", "south", "new land", "new coast"), ("ooh", "aah", "eeh")
COUNTRY, LANGUAGE = slice(0, 4), slice(4, 7)
"""Dimensions of x that hold the country and the language at a place's last token."""
ASKS_COUNTRY, ASKS_LANGUAGE, AFTER_NEW = 7, 8, 9
TEMPLATES = {
    "country": ("%s is in", "all of %s belongs to"),
    "language": ("people of %s speak", "in %s they say"),
}
PLACES = [(f"port e{n}" if n % 2 else f"e{n}", n % 4, n // 4 % 3) for n in range(36)]
"""Names with the numbers of their country and their language; each of the 12 combinations has three places."""
SPECIAL = ["<s>", "<unk>"]
WORDS = re.findall(r"[a-z]+", f"{TEMPLATES} port {COUNTRIES} {LANGUAGES}")
IDS = {word: n for n, word in enumerate(dict.fromkeys([*SPECIAL, *WORDS, *(f"e{n}" for n in range(len(PLACES)))]))}


def made_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(WordLevel(IDS, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")  # type: ignore[no-untyped-call]


def made_model() -> LlamaForCausalLM:
    """Returns the model, in float32 on the CPU."""
    config = LlamaConfig(
        vocab_size=len(IDS),
        hidden_size=D_IN,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=D_IN,
        bos_token_id=0,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    for layer in model.model.layers:
        for weight in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.o_proj, layer.mlp.down_proj):
            weight.weight.zero_()
    facts = torch.diag((torch.arange(D_IN) < LANGUAGE.stop).float())
    model.model.layers[1].self_attn.v_proj.weight.copy_(facts)
    model.model.layers[1].self_attn.o_proj.weight.copy_(8 * facts)
    model.model.embed_tokens.weight.copy_(_embedding())
    model.lm_head.weight.copy_(_unembedding())
    return model


def _embedding() -> torch.Tensor:
    embedding = torch.zeros(len(IDS), D_IN)
    for name, country, language in PLACES:
        embedding[IDS[name.split()[-1]], [country, LANGUAGE.start + language]] = 1.0
    for word, dim in {"in": ASKS_COUNTRY, "to": ASKS_COUNTRY, "speak": ASKS_LANGUAGE, "say": ASKS_LANGUAGE}.items():
        embedding[IDS[word], dim] = 1.0
    embedding[IDS["new"], AFTER_NEW] = 1.0
    return embedding


def _unembedding() -> torch.Tensor:
    unembedding = torch.zeros(len(IDS), D_IN)
    for number, country in enumerate(COUNTRIES):
        first, *second = country.split()
        unembedding[IDS[first], [number, ASKS_COUNTRY]] = torch.tensor([1.0, 3.0])
        if second:
            unembedding[IDS[second[0]], [number, AFTER_NEW]] = torch.tensor([1.0, 10.0])
    for number, language in enumerate(LANGUAGES):
        unembedding[IDS[language], [LANGUAGE.start + number, ASKS_LANGUAGE]] = torch.tensor([1.0, 3.0])
    return unembedding


def write_places(path: Path, places: Sequence[tuple[str, int, int]] = PLACES) -> None:
    """Writes one place per line, with the names of its country and its language."""
    rows = [{"entity": name, "country": COUNTRIES[c], "language": LANGUAGES[lang]} for name, c, lang in places]
    path.write_text("\n".join(map(json.dumps, rows)))
