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
from saepipe.harvest.hooks import HookPoint

LETTERS = "bcdmps"
WORDS_A_LETTER = 12
TOKEN = -6
"""of the word, in `" word has the first letter:"`"""


@dataclass(frozen=True)
class Case:
    """One SAE, one letter, one choice of the letter's own latents."""

    sae: str
    letter: str
    split: list[int]


def prepare(material: Material) -> None:
    """Writes words and cases, and a direction a letter: its words' mean activation less that of the others."""
    words = {letter: [w for w in _single_tokens(material) if w[1] == letter] for letter in LETTERS}
    x = {
        letter: _at_word(material, [f"\n{word} has the first letter:" for word in words[letter]]) for letter in LETTERS
    }
    directions = {
        letter: x[letter].mean(0) - torch.cat([x[other] for other in LETTERS if other != letter]).mean(0)
        for letter in LETTERS
    }
    save_file(directions, material.folder / "directions.safetensors")
    judged = {letter: words[letter][:WORDS_A_LETTER] for letter in LETTERS}
    icl = [word for letter in LETTERS for word in words[letter][WORDS_A_LETTER:]]
    cases = [
        vars(Case(subject.run.variant, letter, split))
        for subject in material.subjects
        for letter in LETTERS
        for split in _splits(subject, x[letter], directions[letter])
    ]
    plain = {"icl": icl, "words": judged, "cases": cases, "token": TOKEN}
    (material.folder / "absorption.json").write_text(json.dumps(plain))


def compare(material: Material) -> Iterator[Row]:
    """By SAE, over all its cases: fractions, full absorption, projections."""
    asked = json.loads((material.folder / "absorption.json").read_text())["cases"]
    theirs: list[list[dict[str, Any]]] = json.loads((material.folder / "absorption_found.json").read_text())
    directions = load_file(material.folder / "directions.safetensors")
    for subject in material.subjects:
        fractions, fulls, projections = [], [], []
        for case, found in zip(asked, theirs, strict=True):
            if case["sae"] != subject.run.variant:
                continue
            direction = directions[case["letter"]]
            x = _at_word(material, [word["prompt"] for word in found])
            acts = subject.encode(x)
            ours = word_scores(x, acts, subject.sae.W_dec, direction, case["split"], mode="reference")
            fractions += list(zip((word["fraction"] for word in found), ours.fraction.tolist(), strict=True))
            fulls += list(zip((word["full"] for word in found), ours.full.tolist(), strict=True))
            projection = x @ (direction / direction.norm())
            projections += list(zip((word["projection"] for word in found), projection.tolist(), strict=True))
        part = f"absorption {subject.run.variant}"
        reference, mine = np.array(fractions).T
        yield absolutely(part, "fraction of each word", reference, mine, 1e-4)
        between = int(((reference > 0) & (reference < 1)).sum())
        full, mine_full = zip(*fulls, strict=True)
        note = f"{len(full)} words: {between} in part, {int((reference == 1).sum())} wholly, {sum(full)} full"
        yield exactly(part, "full absorption of each word", full, mine_full, note)
        yield absolutely(part, "projection of each word", *np.array(projections).T, 1e-4)


def _single_tokens(material: Material) -> list[str]:
    """Words behind a space that are one token."""
    tokenizer = material.language_model.tokenizer
    words = [f" {word}" for word in toy.ASKED_WORDS]
    lengths = map(len, tokenizer(words, add_special_tokens=False)["input_ids"])
    return [word for word, length in zip(words, lengths, strict=True) if length == 1]


def _at_word(material: Material, prompts: list[str]) -> torch.Tensor:
    """(num_prompts, d_in) at the word; all prompts have one length."""
    lm = material.language_model
    ids = torch.tensor(lm.tokenizer(prompts)["input_ids"])
    assert (ids[:, 0] == lm.bos_id).all()
    return capture(lm.model, ids, [HookPoint.parse(HOOK)])[HOOK][:, TOKEN]


def _splits(subject: Subject, x: torch.Tensor, direction: torch.Tensor) -> list[list[int]]:
    """The latent best aligned with the direction, the three best, and the best one that is silent on most words."""
    order = cosine_similarity(direction, subject.sae.W_dec, dim=-1).argsort(descending=True).tolist()
    active = (subject.encode(x) > 0).float().mean(0)
    seldom = [latent for latent in order if active[latent] < 0.3]
    return [order[:1], order[:3], seldom[:1] or order[-1:]]
