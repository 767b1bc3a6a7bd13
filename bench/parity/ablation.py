"""TPP and SCR, given the same activations, probes and examples: effects, ablated activations, accuracies, scores."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from material import CONTEXT, Material
from safetensors.torch import load_file, save_file
from table import Row, absolutely, exactly

from saepipe.data import toy
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.metrics.concepts.ablation import ablated_pooled, attribution, latent_sums, latents_to_ablate
from saepipe.evaluate.metrics.concepts.perturb import accuracies, class_differences
from saepipe.evaluate.metrics.concepts.probe_setup import ConceptProbes, slice_texts
from saepipe.evaluate.metrics.concepts.scr import scr_scores
from saepipe.evaluate.metrics.concepts.spurious_pairs import ATTRIBUTE, CONCEPT, SPURIOUS, PairTexts
from saepipe.evaluate.metrics.concepts.tpp import tpp_scores
from saepipe.evaluate.model.kept_work import Work
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.texts.binary_questions import BinaryExamples, one_vs_rest
from saepipe.evaluate.texts.pooled import TextActivations, activations_work, text_activations

SIZES = (2, 5, 10, 20, 50)
PROFESSIONS = ("nurse", "surgeon", "teacher", "lawyer")
NUM = {"train": 40, "test": 30}
QUARTER = {"train": 20, "test": 15}
POOLED = 1e-5
"""Allowed difference between pooled activations: the closed form against brute force, in float32."""
_ZERO = 1e-7
"""An effect below this counts as 0: it comes from rounding."""


@dataclass(frozen=True)
class Task:
    """TPP on classes, or SCR on one pair of classes."""

    name: str
    train: TextActivations
    test: TextActivations
    concepts: ConceptProbes


def prepare(material: Material) -> None:
    """Writes each task's activations in the reference's layout, its probes and its examples."""
    for task in _tasks(material):
        c = task.concepts
        tensors = {
            "train_x": _padded(task.train),
            "test_x": _padded(task.test),
            "train_signs": c.train_signs,
            "test_signs": c.test_signs,
            "directions": c.directions,
            "intercepts": c.intercepts,
        }
        save_file(tensors, material.folder / f"{task.name}.safetensors")
    plain = {"sizes": SIZES, "classes": PROFESSIONS}
    (material.folder / "ablation.json").write_text(json.dumps(plain))


def compare(material: Material) -> Iterator[Row]:
    """Compares both sides for each task and SAE."""
    for task in _tasks(material):
        for subject in material.subjects:
            name = f"{task.name}_{subject.run.variant}"
            theirs = load_file(material.folder / "ablation" / f"{name}.safetensors")
            scores = json.loads((material.folder / "ablation" / f"{name}.json").read_text())
            yield from _compare(task, subject, theirs, scores)


def _compare(task: Task, subject: Subject, theirs: dict[str, torch.Tensor], scores: dict[str, Any]) -> Iterator[Row]:
    part, concepts, test = f"{task.name} {subject.run.variant}", task.concepts, task.test
    W_dec = subject.sae.W_dec.detach()
    differences = class_differences(subject, task.train, concepts.train_signs)
    signed = task.name == "tpp"
    pairs = zip(differences, concepts.directions, strict=True)
    effects = torch.stack([attribution(difference, W_dec, along, signed=signed) for difference, along in pairs])
    yield absolutely(part, "effects", theirs["effects"], effects, 1e-5)

    chosen = theirs["chosen"]  # (num_concepts, num_sizes, d_sae) bool
    masks = [[_mask(latents_to_ablate(effect, size, "reference"), len(effect)) for size in SIZES] for effect in effects]
    # The reference selects among effects of 0 arbitrarily, and rounding decides which are 0: they are left out.
    clear = (theirs["effects"].abs() > _ZERO)[:, None]
    note = f"{chosen.shape[0]} concepts x {chosen.shape[1]} sizes; without effects of 0"
    ours = torch.stack([torch.stack(by_size) for by_size in masks])
    yield exactly(part, "latents that are switched off", (chosen & clear).tolist(), (ours & clear).tolist(), note)

    latents, pooled = torch.arange(subject.sae.d_sae), test.pooled()
    without, masked = (
        _without(pooled, latent_sums(subject, test, latents, mode), W_dec, test, chosen)
        for mode in ("reference", "fixed")
    )
    moved, special = float((without - pooled).abs().max()), float((without - masked).abs().max())
    key = f"pooled (moved {moved:.2g}, special positions {special:.2g})"
    yield absolutely(part, key, theirs["pooled"], without, POOLED)

    once = torch.ones(1, test.num_texts, dtype=torch.float64)
    clean = accuracies(concepts.logits(pooled), concepts.test_signs, once)
    after = accuracies(concepts.logits(without), concepts.test_signs, once)
    our_scores = _tpp(clean, after) if signed else _scr(task, clean, without, pooled, once)
    yield exactly(part, "keys of the scores", sorted(scores), sorted(our_scores))
    key = f"scores (from {min(scores.values()):.3g} to {max(scores.values()):.3g})"
    yield absolutely(part, key, *np.array([[scores[name], our_scores[name]] for name in scores]).T, 1e-6)


def _without(
    pooled: torch.Tensor, sums: torch.Tensor, W_dec: torch.Tensor, test: TextActivations, chosen: torch.Tensor
) -> torch.Tensor:
    """Returns the pooled activations without the chosen latents, (num_concepts, num_sizes, num_texts, d_in)."""
    ablated = [ablated_pooled(pooled, sums, W_dec, test.num_tokens, on.nonzero()[:, 0]) for on in chosen.flatten(0, 1)]
    return torch.stack(ablated).unflatten(0, chosen.shape[:2])


def _mask(selected: torch.Tensor, d_sae: int) -> torch.Tensor:
    """Returns a (d_sae,) bool mask of the selected latents."""
    return torch.zeros(d_sae, dtype=torch.bool).index_fill(0, selected, True)


def _tpp(clean: np.ndarray, after: np.ndarray) -> dict[str, float]:
    by_class = tpp_scores(clean, after, SIZES)
    return {key: float(np.mean([float(values[key][0]) for values in by_class])) for key in by_class[0]}


def _scr(
    task: Task, clean: np.ndarray, without: torch.Tensor, pooled: torch.Tensor, once: torch.Tensor
) -> dict[str, float]:
    def spurious_accuracy(x: torch.Tensor, question: int) -> np.ndarray:
        """Returns the accuracy of the spurious probe on another question, (..., 1)."""
        logits = task.concepts.logits(x)[..., [SPURIOUS]]
        return accuracies(logits, task.concepts.test_signs[[question]], once)[..., 0]

    before = np.stack([spurious_accuracy(pooled, CONCEPT), spurious_accuracy(pooled, ATTRIBUTE)], axis=-1)
    values = scr_scores(
        clean[:, [CONCEPT, ATTRIBUTE]],
        before,
        spurious_accuracy(without[ATTRIBUTE], CONCEPT),
        spurious_accuracy(without[CONCEPT], ATTRIBUTE),
        SIZES,
        "reference",
    )
    return {key: float(value[0]) for key, value in values.items() if not isinstance(value, str)}


def _tasks(material: Material) -> Iterator[Task]:
    testbed, generator = material.testbed(), torch.Generator().manual_seed(0)

    def task(
        name: str, train: list[str], test: list[str], examples: list[tuple[BinaryExamples, BinaryExamples]]
    ) -> Task:
        work = activations_work(Work("texts", {"name": name}), CONTEXT)
        x = text_activations(testbed, [*train, *test], work, name, Silent())
        train_texts, test_texts = slice_texts(x, 0, len(train)), slice_texts(x, len(train), x.num_texts)
        concepts = ConceptProbes.fit(train_texts.pooled(), test_texts.pooled(), examples, "reference", generator)
        return Task(name, train_texts, test_texts, concepts)

    texts = _biographies()
    parts = {
        part: [text for label in PROFESSIONS for text in _select(texts, label)[first : first + NUM[part]]]
        for part, first in (("train", 0), ("test", NUM["train"]))
    }
    labels = {part: torch.arange(len(PROFESSIONS)).repeat_interleave(NUM[part]) for part in parts}
    yield task(
        "tpp",
        parts["train"],
        parts["test"],
        [
            (one_vs_rest(labels["train"], c, generator), one_vs_rest(labels["test"], c, generator))
            for c in range(len(PROFESSIONS))
        ],
    )
    pair = PairTexts("scr", _quarters(texts, "train"), _quarters(texts, "test"))
    examples = list(zip(pair.examples("train", generator), pair.examples("test", generator), strict=True))
    yield task("scr", list(pair.train), list(pair.test), examples)


def _biographies() -> list[toy.Document]:
    return list(islice(toy.documents(seed=7, kinds=("biography",)), 4_000))


def _select(texts: list[toy.Document], profession: str, gender: str | None = None) -> list[str]:
    return [d.text for d in texts if d.labels["profession"] == profession and gender in (None, d.labels["gender"])]


def _quarters(texts: list[toy.Document], part: str) -> tuple[str, ...]:
    """Returns 2 q, q, q and 2 q texts, in the order of `PairTexts`."""
    q, first = QUARTER[part], 0 if part == "train" else 2 * QUARTER["train"]
    kinds = [(c, a) for a in ("male", "female") for c in PROFESSIONS[:2]]
    shares = (2, 1, 1, 2)
    return tuple(
        text
        for (label, gender), share in zip(kinds, shares, strict=True)
        for text in _select(texts, label, gender)[first : first + share * q]
    )


def _padded(texts: TextActivations) -> torch.Tensor:
    """Returns (num_texts, CONTEXT, d_in), with zeros at the BOS in front and at all other non-ordinary tokens."""
    x = torch.zeros(texts.num_texts, CONTEXT, texts.x.shape[1])
    for row, (start, stop) in enumerate(texts.offsets.unfold(0, 2, 1).tolist()):
        x[row, 1 : 1 + stop - start] = texts.x[start:stop]
    return x
