"""Measures what the embedded model has learned: `python bench/toy_model/measure_toy.py [--model DIR]`.

Prints each figure, on held-out documents, beside a baseline that needs no model.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from random import Random

import numpy as np
import torch
from build_toy import CONTEXT_SIZE, training_texts, windows
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoTokenizer, Gemma2ForCausalLM, PreTrainedTokenizerBase

from saepipe.data.cache.heldout_split import heldout_score
from saepipe.data.toy import (
    ASKED_WORDS,
    HELDOUT_SHARE,
    KINDS,
    MODEL_DIR,
    SPELLED_ONLY_WORDS,
    WORDS,
    Document,
    Kind,
    documents,
)

MEASURE_SEED = 1  # the model was trained on the stream with seed 0
WORD_POSITION = -6  # position of the word in "... {word} has the first letter:"


def main() -> None:
    """Prints all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=MODEL_DIR)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = Gemma2ForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    for title, part in PARTS:
        print(title, flush=True)
        for name, value in part(model, tokenizer).items():
            print(f"  {name:<44} {value:8.3f}", flush=True)


def heldout_documents(kinds: Sequence[Kind] = KINDS, seed: int = MEASURE_SEED) -> Iterator[Document]:
    """Yields held-out documents of a stream that the model was not trained on, without end."""
    return (d for d in documents(seed, kinds=kinds) if heldout_score(d.text) < HELDOUT_SHARE)


def loss_figures(
    model: Gemma2ForCausalLM, tokenizer: PreTrainedTokenizerBase, num_windows: int = 256
) -> dict[str, float]:
    """Cross-entropy in nats per token over ordinary targets, overall and by kind, and for models without context."""
    unigram = unigram_nats(tokenizer)
    figures = {"uniform": math.log(len(tokenizer))}
    parts: dict[str, Sequence[Kind]] = {"model": KINDS, **{f"model, {kind}": (kind,) for kind in KINDS}}
    for name, kinds in parts.items():
        texts = (d.text for d in heldout_documents(kinds))
        ids = np.array(list(islice(windows(texts, tokenizer), num_windows)))  # (batch, seq)
        ordinary = ids[:, 1:] != tokenizer.bos_token_id
        figures[name] = token_nats(model, ids)[ordinary].mean().item()
        if kinds is KINDS:
            figures["unigram"] = unigram[ids[:, 1:][ordinary]].mean().item()
    return figures


@torch.inference_mode()
def token_nats(model: Gemma2ForCausalLM, ids: np.ndarray) -> np.ndarray:
    """-log p of each token after the first: (batch, seq) -> (batch, seq - 1)."""
    batches = torch.split(torch.from_numpy(ids), 32)
    nats = [
        torch.nn.functional.cross_entropy(model(batch).logits[:, :-1].mT, batch[:, 1:], reduction="none")
        for batch in batches
    ]
    return torch.cat(nats).numpy()


def unigram_nats(tokenizer: PreTrainedTokenizerBase, num_texts: int = 20_000) -> np.ndarray:
    """-log p of each token id, from its count in training documents plus one; (vocab,)."""
    texts = list(islice(training_texts(seed=0), num_texts))
    counts = Counter(chain.from_iterable(tokenizer(texts, add_special_tokens=False)["input_ids"]))
    smoothed = np.array([counts[token] + 1 for token in range(len(tokenizer))])
    return -np.log(smoothed / smoothed.sum())


def first_letter_figures(model: Gemma2ForCausalLM, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
    """Share of words whose first letter is the most likely next token, and a baseline."""
    return {
        "words whose first letter was in training": first_letter_accuracy(model, tokenizer, ASKED_WORDS),
        "words only spelled out in training": first_letter_accuracy(model, tokenizer, SPELLED_ONLY_WORDS),
        "always S": sum(word.startswith("s") for word in WORDS) / len(WORDS),
    }


@torch.inference_mode()
def first_letter_accuracy(model: Gemma2ForCausalLM, tokenizer: PreTrainedTokenizerBase, words: Iterable[str]) -> float:
    """Share of `words` for which the most likely token after the prompt is the first letter."""
    words = list(words)
    ids = torch.tensor(tokenizer(letter_prompts(words))["input_ids"])  # (batch, seq)
    letters = torch.tensor([tokenizer.encode(f" {w[0].upper()}", add_special_tokens=False)[0] for w in words])
    guesses = torch.cat([model(batch).logits[:, -1].argmax(-1) for batch in torch.split(ids, 64)])
    return (guesses == letters).double().mean().item()


def letter_prompts(words: Sequence[str], num_examples: int = 5, seed: int = MEASURE_SEED) -> list[str]:
    """Builds one prompt per word, all of one length: examples of other words, then "{word} has the first letter:"."""
    random = Random(seed)

    def lines(word: str) -> Iterator[str]:
        for example in [w for w in random.sample(ASKED_WORDS, num_examples + 1) if w != word][:num_examples]:
            yield f"\n {example} has the first letter: {example[0].upper()}"
        yield f"\n {word} has the first letter:"

    return ["".join(lines(word)) for word in words]


def probe_figures(model: Gemma2ForCausalLM, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
    """Accuracy (5 folds) of linear probes on the residual stream after the middle layer, and of the majority label."""
    figures: dict[str, float] = {}
    labels: dict[Kind, tuple[str, ...]] = {
        "biography": ("profession", "gender"),
        "review": ("category", "sentiment"),
    }
    for kind, names in labels.items():
        docs = list(islice(heldout_documents((kind,)), 1500))
        x = np.stack([residual(model, tokenizer, d.text)[1:].mean(0) for d in docs])  # (num_texts, d_in)
        for name in names:
            y = np.array([d.labels[name] for d in docs])
            figures |= {name: probe_accuracy(x, y), f"{name}, majority": majority(y)}
    x = np.stack([residual(model, tokenizer, prompt)[WORD_POSITION] for prompt in letter_prompts(WORDS)])
    letters = np.array([word[0] for word in WORDS])
    figures |= {"first letter": probe_accuracy(x, letters), "first letter, majority": majority(letters)}
    return figures


@torch.inference_mode()
def residual(model: Gemma2ForCausalLM, tokenizer: PreTrainedTokenizerBase, text: str) -> np.ndarray:
    """The residual stream after the middle layer, (seq, d_in); position 0 is `<bos>`."""
    ids = torch.tensor([tokenizer.encode(text)])
    middle = model.config.num_hidden_layers // 2  # hidden_states[0] comes before the first layer
    return model(ids, output_hidden_states=True).hidden_states[middle][0].numpy()


def probe_accuracy(x: np.ndarray, y: np.ndarray) -> float:
    """Mean accuracy over 5 stratified folds of a logistic regression. x (num_texts, d_in), y (num_texts,)."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    return float(cross_val_score(probe, x, y, cv=StratifiedKFold(5, shuffle=True, random_state=0)).mean())


def majority(y: np.ndarray) -> float:
    """Accuracy of always predicting the most common label."""
    return float(np.unique(y, return_counts=True)[1].max() / len(y))


@torch.inference_mode()
def residual_figures(model: Gemma2ForCausalLM, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
    """Mean norm per layer, at the windows' first `<bos>` and at ordinary tokens, and the number of directions with most
    of the latter's variance (participation ratio of the covariance's eigenvalues, at most d_in)."""
    texts = (d.text for d in heldout_documents())
    ids = torch.tensor(list(islice(windows(texts, tokenizer), 64)))
    ordinary = ids != tokenizer.bos_token_id
    figures: dict[str, float] = {}
    layers: list[torch.nn.Module] = list(model.model.layers)
    for index, layer in enumerate(layers):
        # A module hook, because the last of `hidden_states` is taken after the final norm.
        outputs: list[torch.Tensor] = []
        hook = layer.register_forward_hook(lambda _m, _in, out, kept=outputs: kept.append(out))
        model(ids)
        hook.remove()
        x = outputs[0]  # (batch, seq, d_in)
        variances = torch.linalg.eigvalsh(x[ordinary].T.cov())
        figures[f"blocks.{index}, <bos>"] = x[:, 0].norm(dim=-1).mean().item()
        figures[f"blocks.{index}, ordinary tokens"] = x[ordinary].norm(dim=-1).mean().item()
        figures[f"blocks.{index}, directions"] = (variances.sum() ** 2 / variances.square().sum()).item()
    return figures


Part = Callable[[Gemma2ForCausalLM, PreTrainedTokenizerBase], dict[str, float]]

PARTS: tuple[tuple[str, Part], ...] = (
    (f"loss, nats per token, windows of {CONTEXT_SIZE}", loss_figures),
    ("first letter, accuracy", first_letter_figures),
    ("linear probes after the middle layer, accuracy", probe_figures),
    ("residual stream", residual_figures),
)

if __name__ == "__main__":
    main()
