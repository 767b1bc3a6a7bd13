"""Absorption word by word, given the same words, probe directions and the letters' own latents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from material import HOOK, Material
from safetensors.torch import load_file, save_file
from table import Row, absolutely, exactly
from torch.nn.functional import cosine_similarity

from saepipe.data import toy
from saepipe.evaluate.metrics.absorption.word_scores import word_scores
from saepipe.evaluate.sae.subject import Subject
from saepipe.harvest.capture import capture
from saepipe.harvest.hook_point import HookPoint

LETTERS = "bcdmps"
WORDS_PER_LETTER = 12
TOKEN = -6
"""Position of the word in `" word has the first letter:"`."""


@dataclass(frozen=True)
class Case:
    """An SAE, a letter, and a choice of the letter's own latents."""

    sae: str
    letter: str
    split: list[int]


def prepare(material: Material) -> None:
    """Writes words, cases and a direction per letter: the mean activation of its words minus that of the others."""
    words = {letter: [w for w in _single_tokens(material) if w[1] == letter] for letter in LETTERS}
    x = {
        letter: _at_word(material, [f"\n{word} has the first letter:" for word in words[letter]]) for letter in LETTERS
    }
    directions = {
        letter: x[letter].mean(0) - torch.cat([x[other] for other in LETTERS if other != letter]).mean(0)
        for letter in LETTERS
    }
    save_file(directions, material.folder / "directions.safetensors")
    scored = {letter: words[letter][:WORDS_PER_LETTER] for letter in LETTERS}
    icl = [word for letter in LETTERS for word in words[letter][WORDS_PER_LETTER:]]
    cases = [
        vars(Case(subject.run.variant, letter, split))
        for subject in material.subjects
        for letter in LETTERS
        for split in _splits(subject, x[letter], directions[letter])
    ]
    plain = {"icl": icl, "words": scored, "cases": cases, "token": TOKEN}
    (material.folder / "absorption.json").write_text(json.dumps(plain))


def compare(material: Material) -> Iterator[Row]:
    """Compares fractions, full absorption and projections by SAE, over all its cases."""
    cases = json.loads((material.folder / "absorption.json").read_text())["cases"]
    reference: list[list[dict[str, Any]]] = json.loads((material.folder / "absorption_found.json").read_text())
    directions = load_file(material.folder / "directions.safetensors")
    for subject in material.subjects:
        fractions, fulls, projections = [], [], []
        for case, theirs in zip(cases, reference, strict=True):
            if case["sae"] != subject.run.variant:
                continue
            direction = directions[case["letter"]]
            x = _at_word(material, [word["prompt"] for word in theirs])
            acts = subject.encode(x)
            ours = word_scores(x, acts, subject.sae.W_dec, direction, case["split"], mode="reference")
            fractions += list(zip((word["fraction"] for word in theirs), ours.fraction.tolist(), strict=True))
            fulls += list(zip((word["full"] for word in theirs), ours.full.tolist(), strict=True))
            projection = x @ (direction / direction.norm())
            projections += list(zip((word["projection"] for word in theirs), projection.tolist(), strict=True))
        part = f"absorption {subject.run.variant}"
        fraction, our_fraction = np.array(fractions).T
        yield absolutely(part, "fraction of each word", fraction, our_fraction, 1e-4)
        partial = int(((fraction > 0) & (fraction < 1)).sum())
        full, our_full = zip(*fulls, strict=True)
        note = f"{len(full)} words: {partial} in part, {int((fraction == 1).sum())} wholly, {sum(full)} full"
        yield exactly(part, "full absorption of each word", full, our_full, note)
        yield absolutely(part, "projection of each word", *np.array(projections).T, 1e-4)


def _single_tokens(material: Material) -> list[str]:
    """Returns the words, each with its leading space, that are a single token."""
    tokenizer = material.language_model.tokenizer
    words = [f" {word}" for word in toy.ASKED_WORDS]
    lengths = map(len, tokenizer(words, add_special_tokens=False)["input_ids"])
    return [word for word, length in zip(words, lengths, strict=True) if length == 1]


def _at_word(material: Material, prompts: list[str]) -> torch.Tensor:
    """Returns activations at the word, (num_prompts, d_in); all prompts have the same length."""
    lm = material.language_model
    ids = torch.tensor(lm.tokenizer(prompts)["input_ids"])
    assert (ids[:, 0] == lm.bos_id).all()
    return capture(lm.model, ids, [HookPoint.parse(HOOK)])[HOOK][:, TOKEN]


def _splits(subject: Subject, x: torch.Tensor, direction: torch.Tensor) -> list[list[int]]:
    """Returns the latent best aligned with the direction, the best three, and the best that is off on most words."""
    order = cosine_similarity(direction, subject.sae.W_dec, dim=-1).argsort(descending=True).tolist()
    active = (subject.encode(x) > 0).float().mean(0)
    rare = [latent for latent in order if active[latent] < 0.3]
    return [order[:1], order[:3], rare[:1] or order[-1:]]
