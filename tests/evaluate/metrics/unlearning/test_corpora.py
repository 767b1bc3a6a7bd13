"""Windows of text, and densities on them against direct counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.local_hub import Hub, Repo, serve
from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.metrics.unlearning import corpora
from saepipe.evaluate.metrics.unlearning.corpora import Corpus, densities, token_blocks
from saepipe.harvest.config import DatasetConfig

D_IN = 128


@pytest.fixture
def corpus(files) -> Corpus:
    dataset = DatasetConfig(source=str(files / "forget.jsonl"))
    return Corpus("forget", dataset, num_documents=12, num_windows=9, context_size=20, seed=1, mode="fixed")


def windows_of(testbed, corpus: Corpus) -> torch.Tensor:
    return corpora._windows(testbed, corpus, corpus.key())


@pytest.mark.parametrize("mode", ["fixed", "reference"])
def test_windows_are_full_and_come_from_the_text(testbed, corpus, files, lm, mode) -> None:
    ids = windows_of(testbed, replace(corpus, mode=mode))
    assert ids.shape == (9, 20)
    assert (ids[:, 0] == lm.bos_id).all()
    chars = {char for line in (files / "forget.jsonl").read_text().splitlines() for char in json.loads(line)["text"]}
    text = lm.tokenizer.batch_decode(ids[:, 1:], skip_special_tokens=True)
    assert set("".join(text)) <= chars
    assert "too short" not in "".join(text)


def test_windows_of_mode_reference_equal_saebenchs(testbed, corpus, files, lm) -> None:
    whole = replace(corpus, num_documents=None, num_windows=1000, mode="reference")
    documents = [json.loads(line)["text"] for line in (files / "forget.jsonl").read_text().splitlines()][:-1]
    full_text = "<eos>".join(documents)
    length = (len(full_text) - 1) // 20 + 1
    chunks = [full_text[i * length : (i + 1) * length] for i in range(20)]
    tokens = lm.tokenizer([f"<bos>{chunk}" for chunk in chunks], add_special_tokens=False)["input_ids"]
    flat = torch.tensor([token for chunk in tokens for token in chunk])
    expected = flat[: len(flat) // 20 * 20].reshape(-1, 20)
    expected[:, 0] = lm.bos_id
    actual = windows_of(testbed, whole)
    assert sorted(actual.tolist()) == sorted(expected.tolist())


def test_windows_are_reproducible_from_the_seed(testbed_at, tmp_path, corpus) -> None:
    first, again = (windows_of(testbed_at(tmp_path / name), corpus) for name in ("a", "b"))
    assert torch.equal(first, again)
    assert not torch.equal(first, windows_of(testbed_at(tmp_path / "a"), replace(corpus, seed=2)))


@pytest.mark.parametrize("mode", ["fixed", "reference"])
def test_densities_against_counting(testbed, corpus, lm, subject_of, random_latents, monkeypatch, mode) -> None:
    monkeypatch.setattr(corpora, "_BLOCK", 4)  # several blocks
    monkeypatch.setattr(corpora, "_LATENTS_AT_ONCE", 7 * 30)
    corpus = replace(corpus, mode=mode)
    subjects = [subject_of(random_latents(seed)) for seed in (0, 1)]
    by_subject, num_tokens = densities(subjects, token_blocks(testbed, corpus, Silent()))
    ids = windows_of(testbed, corpus)
    x = lm.model(ids, output_hidden_states=True).hidden_states[2]
    ordinary = [(row, at) for row in range(9) for at in range(20) if int(ids[row, at]) not in lm.special_ids]
    assert num_tokens == len(ordinary) < 9 * 19 + (mode == "reference")
    for subject, density in zip(subjects, by_subject, strict=True):
        active = torch.stack([subject.sae.encode(x[row, at]) > 0 for row, at in ordinary])
        assert density.tolist() == pytest.approx(active.double().mean(0).tolist(), abs=1e-12)
        assert 0 < density.min() < density.max()


@pytest.fixture
def random_latents(make_sae):
    def make(seed: int):
        generator = torch.Generator().manual_seed(seed)
        W_enc = torch.randn(D_IN, 30, generator=generator)
        return make_sae(W_enc, W_enc.T.contiguous(), torch.randn(30, generator=generator))

    return make


def test_too_little_text_is_an_error(testbed, corpus) -> None:
    with pytest.raises(ConfigError, match="does not fill one window"):
        windows_of(testbed, replace(corpus, context_size=5000))


def test_error_for_a_gated_corpus_says_what_to_do(tmp_path: Path) -> None:
    program = (
        "import time\ntime.sleep = lambda seconds: None  # no waits between attempts\n"
        "from saepipe.evaluate.metrics.unlearning.corpora import _documents\n"
        "from saepipe.harvest.config import DatasetConfig\n"
        "from saepipe.data.errors import RemoteError\n"
        "try:\n    _documents(DatasetConfig(source='cais/wmdp-bio-forget-corpus'), None)\n"
        "except RemoteError as error:\n    print(error)\n"
    )
    with serve(Hub({"datasets/cais/wmdp-bio-forget-corpus": Repo([{"README.md": b""}], gated=True)})) as hub:
        own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)}
        own |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
        plain = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        done = subprocess.run([sys.executable, "-c", program], env=plain | own, capture_output=True, text=True)
    assert "'cais/wmdp-bio-forget-corpus' from the hub" in done.stdout, done.stderr
    assert "gated" in done.stdout
    assert "ask for access" in done.stdout
    assert "a file of your own" in done.stdout
