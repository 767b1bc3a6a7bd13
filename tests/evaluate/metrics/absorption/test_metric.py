"""The metric on hand-made SAEs and words with known absorption, and on the toy model."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.result_schemas import check
from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.metrics.absorption.metric import Absorption
from saepipe.evaluate.metrics.absorption.vocabulary import LETTERS
from saepipe.evaluate.metrics.base import Measurement
from saepipe.evaluate.model.kept_work import Content, KeptWork
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.results.result_file import Request, envelope
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.stats.intervals import Estimate
from saepipe.harvest.model import load_model
from saepipe.harvest.model_config import ModelConfig

HOOK = "blocks.1.hook_resid_post"
NUM_STEMS, SPECIAL, NUM_TEST = 20, 4, 6
"""Words per letter; words with a latent of their own; test words, two of which have such a latent."""
SHARE = 1 / 3


@dataclass(frozen=True)
class HandMadeWords:
    """Words along 26 letter axes; each special word also has an axis of its own."""

    texts: dict[str, list[str]]
    x: dict[str, Tensor]
    children: list[tuple[int, int]]
    """(letter, axis) of each special word"""


@pytest.fixture(scope="module")
def words() -> HandMadeWords:
    rng = torch.Generator().manual_seed(0)
    texts: dict[str, list[str]] = {"train": [], "test": []}
    rows: dict[str, list[Tensor]] = {"train": [], "test": []}
    children: list[tuple[int, int]] = []
    d_in = 26 * (1 + SPECIAL)
    for letter in range(26):
        for stem in range(NUM_STEMS):
            part = "test" if stem % 10 < NUM_TEST // 2 else "train"
            x = 0.005 * torch.randn(d_in, generator=rng)
            x[letter] += 3
            if stem % 10 in (2, 3):  # half of these are for testing
                axis = 26 + len(children)
                x[axis] += 3
                children.append((letter, axis))
            texts[part].append(f" {LETTERS[letter]}{LETTERS[stem]}")
            rows[part].append(x)
    return HandMadeWords(texts, {part: torch.stack(x) for part, x in rows.items()}, children)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture
def testbed(words: HandMadeWords, folder: Path) -> Testbed:
    return stored_testbed(words, folder)


def stored_testbed(words: HandMadeWords, folder: Path, **changes: Any) -> Testbed:
    """Returns a testbed with stored words and activations but no model."""

    def load() -> Any:
        raise AssertionError("the model is not needed")

    attributes = {"model": {"id": "by hand"}, "config": {"model": {"model": "by hand"}}}
    cache: Any = SimpleNamespace(attributes=attributes, path=Path("cache"), fingerprint="c" * 64)
    testbed = Testbed(cache, HOOK, load, KeptWork(folder, {"id": "by hand"}), 4, torch.device("cpu"), **changes)
    tensors = {f"x_{part}": x for part, x in words.x.items()}
    tensors |= {f"tokens_{part}": torch.arange(len(x)) for part, x in words.x.items()}
    if testbed.mode == "reference":
        tensors["x_scored"] = words.x["test"].clone()
    work = Absorption().works(testbed)[0]
    testbed.kept_work.get(work.kind, work.key, lambda: Content(tensors, words.texts))
    return testbed


class ByHand(torch.nn.Module):
    """SAE with one latent per letter and one per special word.

    A special word's own latent carries `share` of the letter, and the letter's latent is weaker there by as much.
    """

    def __init__(self, words: HandMadeWords, share: float) -> None:
        super().__init__()
        d_in, d_sae = words.x["train"].shape[1], 26 + len(words.children)
        self.W_enc, self.W_dec = torch.zeros(d_in, d_sae), torch.zeros(d_sae, d_in)
        self.W_enc[:26, :26] = self.W_dec[:26, :26] = torch.eye(26)
        for latent, (letter, axis) in enumerate(words.children, 26):
            self.W_enc[axis, letter], self.W_enc[axis, latent] = -share, 1.0
            self.W_dec[latent, letter], self.W_dec[latent, axis] = share, 1.0
        self.b_enc, self.b_dec = torch.full((d_sae,), -0.05), torch.zeros(d_in)

    @property
    def d_sae(self) -> int:
        return len(self.b_enc)

    def encode(self, x: Tensor, latents: Tensor | None = None) -> Tensor:
        acts = ((x - self.b_dec) @ self.W_enc + self.b_enc).relu()
        return acts if latents is None else acts[..., latents]

    def decode(self, acts: Tensor) -> Tensor:
        return acts @ self.W_dec + self.b_dec


def subject_of(sae: Any) -> Subject:
    run: Any = SimpleNamespace(variant="by-hand", seed=0, data_seed=7)
    return Subject(run, sae, {"architecture": "standard"})


def measured(sae: Any, testbed: Testbed, **settings: Any) -> Measurement:
    return Absorption.model_validate(settings).measure([subject_of(sae)], testbed, Silent())[0]


def value(result: Measurement, key: str) -> float | None:
    return result.metrics["mean"][key].value  # type: ignore[union-attr]


@pytest.mark.parametrize(("share", "fraction", "full"), [(0.0, 0.0, 0.0), (1.0, SHARE, SHARE), (0.5, SHARE / 2, 0.0)])
def test_no_full_and_half_absorption(words, testbed, share, fraction, full) -> None:
    """A third of the words are special; their own latents carry none, all or half of the letter."""
    result = measured(ByHand(words, share), testbed)
    assert value(result, "mean_absorption_fraction_score") == pytest.approx(fraction, abs=0.01)
    assert value(result, "mean_full_absorption_score") == pytest.approx(full)
    assert value(result, "mean_num_split_features") == 1
    assert value(result, "std_dev_full_absorption_score") == pytest.approx(0.0)
    assert result.counts == {"train_words": 364, "test_words": 156, "true_positives": 156, "letters": 26}
    assert result.extra["first_letter_probe_f1"] == pytest.approx(1.0)
    assert not result.warnings
    assert not result.findings


def test_entries_per_letter(words, testbed) -> None:
    result = measured(ByHand(words, 1.0), testbed)
    assert [detail["first_letter"] for detail in result.details] == list(LETTERS)
    assert result.details[2] == {
        "first_letter": "c",
        "mean_absorption_fraction": pytest.approx(SHARE),
        "full_absorption_rate": pytest.approx(SHARE),
        "num_full_absorption": 2,
        "num_probe_true_positives": 6,
        "num_split_features": 1,
    }
    letter = result.more["letters"][2]
    special = {latent for latent, (owner, _) in enumerate(words.children, 26) if owner == 2}
    assert letter["split_latents"] == [2]
    assert letter["f1_split"] == pytest.approx(2 * 12 / (2 * 12 + 2))  # its latent is inactive at 2 of 14 train words
    assert letter["f1_split_test"] == pytest.approx(2 * 4 / (2 * 4 + 2))  # and at 2 of 6 test words
    assert letter["not_measurable"] is None
    assert {latent for latent, _ in letter["top_absorbers"]} <= special
    assert sum(number for _, number in letter["top_absorbers"]) == letter["num_absorbed"] == 2
    assert len(letter["absorbed_words"]) == 2
    for latent, [word] in letter["absorbed_words"].items():
        axis = words.children[int(latent) - 26][1]
        assert words.x["test"][words.texts["test"].index(word), axis] > 2  # the word that this latent represents


def test_intervals_are_over_letters_then_words(words, testbed) -> None:
    result = measured(ByHand(words, 1.0), testbed).metrics["mean"]["mean_full_absorption_score"]
    assert 0 < result.low < SHARE < result.high < 1  # type: ignore[union-attr, operator]


def test_equivalent_saes_have_the_same_absorption(words, testbed) -> None:
    """Latents are reordered, and decoder rows rescaled with their activations."""
    plain = ByHand(words, 0.5)
    other = ByHand(words, 0.5)
    rng = torch.Generator().manual_seed(1)
    order = torch.randperm(plain.d_sae, generator=rng)
    scale = 0.2 + 5 * torch.rand(plain.d_sae, generator=rng)
    other.W_enc, other.b_enc = (plain.W_enc * scale)[:, order], (plain.b_enc * scale)[order]
    other.W_dec = (plain.W_dec / scale[:, None])[order]
    expected, result = measured(plain, testbed), measured(other, testbed)
    assert value(result, "mean_absorption_fraction_score") == pytest.approx(
        value(expected, "mean_absorption_fraction_score"), abs=1e-5
    )
    assert [letter["split_latents"] for letter in expected.more["letters"]] == [
        [int(order[latent]) for latent in letter["split_latents"]] for letter in result.more["letters"]
    ]


def test_a_shared_offset_is_not_absorbed(words, testbed, tmp_path) -> None:
    """Activations and b_dec are shifted by one vector, which changes nothing. SAEBench counts the vector."""
    shift = 6.0 * (torch.arange(words.x["train"].shape[1]) < 13)
    moved = replace(words, x={part: x + shift for part, x in words.x.items()})
    sae, shifted = ByHand(words, 0.5), ByHand(words, 0.5)
    shifted.b_dec = shift
    expected = measured(sae, testbed)
    result = measured(shifted, stored_testbed(moved, tmp_path))
    assert value(result, "mean_absorption_fraction_score") == pytest.approx(
        value(expected, "mean_absorption_fraction_score"), abs=1e-3
    )


def test_a_letter_without_a_latent_is_not_measurable(words, testbed) -> None:
    sae = ByHand(words, 1.0)
    sae.b_enc[2] = -100.0  # c
    result = measured(sae, testbed)
    detail, letter = result.details[2], result.more["letters"][2]
    assert detail["full_absorption_rate"] is detail["mean_absorption_fraction"] is detail["num_split_features"] is None
    assert detail["num_probe_true_positives"] == 6
    assert letter["not_measurable"].startswith("the F1 of its latents is not above 0.4: 0.")
    assert letter["f1_split"] <= 0.4
    assert result.counts["letters"] == result.extra["first_letter_num_letters"] == 25
    assert "1 of 26 letters (the F1 of its latents is not above 0.4: c)" in result.warnings[0]
    assert value(result, "mean_full_absorption_score") == pytest.approx(SHARE)
    assert result.extra["first_letter_split_f1"].value == pytest.approx(25 / 26 * 12 / 13)  # type: ignore[union-attr]


def test_an_sae_without_letters_has_no_absorption_figure(words, testbed) -> None:
    sae = ByHand(words, 1.0)
    sae.b_enc[:26] = -100.0
    result = measured(sae, testbed)
    assert value(result, "mean_full_absorption_score") is None
    assert result.metrics["mean"]["mean_full_absorption_score"].reason == "no letter is measurable"  # type: ignore[union-attr]
    assert not result.findings  # the model's probes are fine


def test_letters_that_the_model_does_not_represent(words, tmp_path) -> None:
    """Eight letters are replaced by noise: their probes fail, so fewer than 20 letters are good, and H10 reports it."""
    rng = torch.Generator().manual_seed(2)
    x = {part: rows.clone() for part, rows in words.x.items()}
    for part, texts in words.texts.items():
        for row, text in enumerate(texts):
            if text[1] < "i":
                x[part][row] = torch.randn(x[part].shape[1], generator=rng)
    blurred = replace(words, x=x)
    result = measured(ByHand(words, 1.0), stored_testbed(blurred, tmp_path / "fixed"))
    assert result.more["letters"][0]["not_measurable"].startswith("the probe's F1 is not above 0.6: 0.")
    assert value(result, "mean_full_absorption_score") == pytest.approx(SHARE)
    assert [finding.rule for finding in result.findings] == ["H10"]
    assert "of 26 first letters have an F1 above 0.6 (required: 20)" in result.findings[0].message
    reference = measured(ByHand(words, 1.0), stored_testbed(blurred, tmp_path / "reference", mode="reference"))
    assert value(reference, "mean_full_absorption_score") is None
    assert "SAEBench gives no result" in reference.metrics["mean"]["mean_full_absorption_score"].reason  # type: ignore[union-attr, operator]


def test_too_few_words_for_a_rate(words, testbed) -> None:
    result = measured(ByHand(words, 1.0), testbed, min_true_positives=7)
    assert {letter["not_measurable"] for letter in result.more["letters"]} == {"fewer than 7 true positives: 6"}
    assert value(result, "mean_num_split_features") is None


def test_mode_reference_uses_the_references_gates(words, tmp_path) -> None:
    """SAEBench requires neither an F1 of the letter's latents nor a minimum number of words."""
    sae = ByHand(words, 1.0)
    sae.b_enc[2] = -100.0
    result = measured(sae, stored_testbed(words, tmp_path, mode="reference"), min_true_positives=7)
    assert result.counts["letters"] == 26


def test_the_result_file_has_the_references_keys(words, testbed) -> None:
    metric, sae = Absorption(), ByHand(words, 1.0)
    sae.b_enc[2] = -100.0
    request = Request("r", "c", HOOK, metric.to_dict(), metric.version, 4, "float32", "fixed", "stored", None, "w")
    contents = envelope(measured(sae, testbed), request, metric, subject_of(sae), testbed, "an-id")
    check(contents)
    contents = json.loads(json.dumps(contents, allow_nan=False))
    assert contents["eval_config"]["random_seed"] == 42
    assert contents["saepipe"]["letters"][2]["not_measurable"]
    assert set(Absorption.shown) <= {*contents["eval_result_metrics"]["mean"], *contents["saepipe"]["metrics"]}


@pytest.mark.parametrize("template", ["the first letter:", "{word} {word}:", "{word} of {language}:"])
def test_the_template_must_contain_the_word(template) -> None:
    with pytest.raises(ConfigError, match="it must contain"):
        Absorption.parse({"template": template})


# on the toy model


def toy_testbed(folder: Path, **changes: Any) -> Testbed:
    attributes = {"model": {"id": "toy"}, "config": {"model": {"model": "toy"}}}
    cache: Any = SimpleNamespace(attributes=attributes, path=Path("cache"), fingerprint="c" * 64)
    settings: dict[str, Any] = {"load": lambda: load_model(ModelConfig(dtype="bfloat16", device="cpu"))} | changes
    kept_work = KeptWork(folder, {"id": "toy"})
    return Testbed(cache, HOOK, kept_work=kept_work, batch_size=32, device=torch.device("cpu"), **settings)


class RandomSAE(ByHand):
    def __init__(self, d_in: int, d_sae: int) -> None:
        torch.nn.Module.__init__(self)
        rng = torch.Generator().manual_seed(0)
        self.W_enc = torch.randn(d_in, d_sae, generator=rng) / d_in**0.5
        self.W_dec, self.b_enc, self.b_dec = self.W_enc.T.clone(), torch.full((d_sae,), -1.0), torch.zeros(d_in)


@pytest.mark.parametrize("mode", ["fixed", "reference"])
def test_a_second_call_needs_no_model_and_gives_the_same_bits(tmp_path, mode) -> None:
    metric = Absorption(max_words=100)
    subject = subject_of(RandomSAE(128, 32))
    cold = toy_testbed(tmp_path, mode=mode)
    first = metric.measure([subject], cold, Silent())[0]
    assert cold.passes.lower == first.counts["train_words"] + first.counts["test_words"] * (1 + (mode == "reference"))
    assert all(cold.kept_work.has(work.kind, work.key) for work in metric.works(cold))

    def refuse() -> Any:
        raise AssertionError("the model is loaded again")

    warm = toy_testbed(tmp_path, load=refuse, mode=mode)
    assert metric.measure([subject], warm, Silent()) == [first]
    assert warm.passes.lower == 0


def test_words_prompts_and_activations_follow_from_the_seed(tmp_path) -> None:
    def stored_words(folder: str, seed: int) -> Content:
        metric, testbed = Absorption(max_words=100, seed=seed), toy_testbed(tmp_path / folder)
        metric.measure([], testbed, Silent())  # without SAEs: only the model's part
        work = metric.works(testbed)[0]
        return testbed.kept_work.get(work.kind, work.key, lambda: Content({}))

    first, again, other = stored_words("first", 42), stored_words("again", 42), stored_words("other", 43)
    assert first.info == again.info != other.info
    assert torch.equal(first.tensors["x_train"], again.tensors["x_train"])
    assert first.tensors["x_train"].dtype == torch.bfloat16
    assert np.all([len(examples) == 10 for examples in first.info["examples_train"]])
    assert {text for examples in first.info["examples_test"] for text in examples} <= set(first.info["test"])


def test_words_of_a_file(tmp_path) -> None:
    (tmp_path / "words.txt").write_text("\n".join(["pencil", "apple", "notaword", "table", "river", "stone"]))
    metric = Absorption(words=tmp_path / "words.txt", test_share=0.5)
    with pytest.raises(ConfigError, match=r"5 words are single tokens .*\(train: 5, test: 0\)"):
        metric.measure([], toy_testbed(tmp_path / "a"), Silent())
    with pytest.raises(ConfigError, match=r"cannot read .*none\.txt"):
        Absorption(words=tmp_path / "none.txt").works(toy_testbed(tmp_path / "a"))


class Syllables:
    """Tokenizer that knows few Latin letters or, if it has words of them, gives all of these the same tokens."""

    def __init__(self, words: list[str]) -> None:
        self.words = words

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1, 1, 1 if self.words else number] for number, _ in enumerate(texts)]}

    def get_vocab(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(["\u304b", *self.words])}

    def batch_decode(self, rows: list[list[int]]) -> list[str]:
        return [["\u304b", *self.words][token] for (token,) in rows]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([f" {letter}x" for letter in LETTERS], "gives ' a' and ' b' the same tokens"),
        ([], "too few words of Latin letters are single tokens of syllables: 0"),
    ],
)
def test_a_vocabulary_without_latin_letters_is_not_measurable(tmp_path, words: list[str], reason: str) -> None:
    lm: Any = SimpleNamespace(tokenizer=Syllables(words), bos_id=0, config=SimpleNamespace(model="syllables"))
    attributes = {"model": {"id": "syllables"}, "config": {"model": {"model": "syllables"}}}
    cache: Any = SimpleNamespace(attributes=attributes, path=Path("cache"), fingerprint="c" * 64)
    testbed = Testbed(cache, HOOK, lambda: lm, KeptWork(tmp_path, {}), 4, torch.device("cpu"))
    progress = Silent()
    [measurement] = Absorption().measure([subject_of(RandomSAE(128, 32))], testbed, progress)
    assert reason in progress.said[0]
    figure = measurement.metrics["mean"]["mean_full_absorption_score"]
    assert isinstance(figure, Estimate)
    assert figure.value is None
    assert reason in str(figure.reason)
    assert measurement.warnings == progress.said
