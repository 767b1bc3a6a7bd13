"""Builds the embedded model: `python bench/toy_model/build_toy.py [--out DIR] [--steps N] [--seed S]`.

Trains the tokenizer, then a small Gemma-2, on generated documents outside the held-out share. The result is a function
of the steps, the seed, the library versions and the number of threads.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from saepipe.data.cache.heldout_split import heldout_score
from saepipe.data.toy import HELDOUT_SHARE, MODEL_DIR, WORDS, documents

VOCAB_SIZE = 4096
CONTEXT_SIZE = 128
BATCH_SIZE = 16
PEAK_LR = 4e-3
WARMUP_STEPS = 150
SAVE_EVERY = 500
SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>")  # in Gemma's order


def main() -> None:
    """Builds the tokenizer and the model, and writes both into one checkpoint folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=MODEL_DIR, help="checkpoint folder")
    parser.add_argument("--steps", type=int, default=1600, help=f"steps of {BATCH_SIZE} x {CONTEXT_SIZE} tokens")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and the training documents")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    tokenizer = train_tokenizer(args.seed)
    tokenizer.save_pretrained(args.out)
    model = new_model(tokenizer, args.seed)
    for step in train(model, windows(training_texts(args.seed), tokenizer), args.steps):
        if step % SAVE_EVERY == 0 or step == args.steps:
            copy.deepcopy(model).bfloat16().save_pretrained(args.out)


def training_texts(seed: int) -> Iterator[str]:
    """Yields the texts that are not held out, without end."""
    return (d.text for d in documents(seed) if heldout_score(d.text) >= HELDOUT_SHARE)


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE, which decodes every text exactly; prepends `<bos>` as Gemma's tokenizer does."""
    # The word list is repeated, so that each of its words becomes a single token.
    word_list = (f" {word}" for word in WORDS for _ in range(500))
    texts = chain(islice(training_texts(seed), 20_000), word_list)
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    bos = ("<bos>", SPECIAL_TOKENS.index("<bos>"))
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[bos]
    )
    names = ("pad_token", "eos_token", "bos_token", "unk_token")
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core, clean_up_tokenization_spaces=False, **dict(zip(names, SPECIAL_TOKENS, strict=True))
    )


def new_model(tokenizer: PreTrainedTokenizerBase, seed: int) -> Gemma2ForCausalLM:
    """A small Gemma-2. The sliding window is shorter than a context, so that its two kinds of layer differ."""
    torch.manual_seed(seed)
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        query_pre_attn_scalar=32,
        sliding_window=32,
        attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return Gemma2ForCausalLM(config)


def windows(texts: Iterator[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    """Yields windows of `CONTEXT_SIZE` ids; each window starts with `<bos>`, and so does each document."""
    bos = tokenizer.bos_token_id
    window = [bos]
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False)
        if len(window) > 1:
            ids = [bos, *ids]
        while len(window) + len(ids) >= CONTEXT_SIZE:
            room = CONTEXT_SIZE - len(window)
            yield [*window, *ids[:room]]
            window, ids = [bos], ids[room:]
        window += ids


def train(model: Gemma2ForCausalLM, stream: Iterator[list[int]], num_steps: int) -> Iterator[int]:
    """Trains with AdamW, linear warm-up and cosine decay, in float32; yields the number of steps done."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: lr_factor(step, num_steps))
    started, mean_loss = time.monotonic(), 0.0
    for step in range(1, num_steps + 1):
        ids = torch.tensor(list(islice(stream, BATCH_SIZE)))  # (batch, seq)
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        mean_loss += (loss.item() - mean_loss) / min(step, 50)
        if step % 100 == 0:
            seconds = time.monotonic() - started
            rate = step * ids.numel() / seconds
            print(f"step {step}/{num_steps}  loss {mean_loss:.3f}  {rate:,.0f} tokens/s  {seconds:.0f} s", flush=True)
        yield step


def lr_factor(step: int, num_steps: int) -> float:
    """Factor of the peak learning rate: linear warm-up times a half cosine from 1 down to 2 %."""
    warm_up = min(1.0, (step + 1) / WARMUP_STEPS)
    return warm_up * (0.02 + 0.98 * (1 + math.cos(math.pi * step / num_steps)) / 2)


if __name__ == "__main__":
    main()
