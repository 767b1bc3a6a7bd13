"""Explanations of latents whose meaning is known, by a local server: each latent is one token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from helpers.by_hand import LinearSAE, StoredHeldout
from helpers.chat_server import Served, chat_server, reader
from helpers.result_schemas import check
from saepipe.data.cache.cache import Cache
from saepipe.data.errors import ConfigError, RemoteError
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.features.roles import roles
from saepipe.evaluate.metrics.autointerp import chat
from saepipe.evaluate.metrics.autointerp.metric import Autointerp
from saepipe.evaluate.metrics.base import Measurement
from saepipe.evaluate.model.kept_work import KeptWork
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.run import evaluate
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.stats.intervals import Estimate
from saepipe.evaluate.use.finished_run import open_run
from saepipe.train.config import TrainConfig
from saepipe.train.run import train

HOOK = "blocks.1.hook_resid_post"
SMALL = {"num_latents": 4, "num_shown": 4, "num_tested": 6, "per_prompt": 5, "window": 8}


@pytest.fixture(scope="module")
def words(toy_cache: Path) -> tuple[Cache, torch.Tensor]:
    """Returns a cache whose text is real, and the 24 tokens that are most frequent in its held-out part."""
    cache = Cache.open(toy_cache)
    ids = np.asarray(cache.heldout.contexts)[np.asarray(cache.heldout.keep)]
    return cache, torch.from_numpy(np.bincount(ids).argsort()[::-1][:24].copy())


@pytest.fixture
def testbed(words: tuple[Cache, torch.Tensor], tmp_path: Path) -> Testbed:
    """Returns a testbed whose activations tell which of those tokens each token is."""
    cache, tokens = words
    contexts = np.asarray(cache.heldout.contexts)
    x = (torch.from_numpy(contexts.astype(np.int64)).unsqueeze(-1) == tokens).float()
    heldout = StoredHeldout(contexts, np.asarray(cache.heldout.documents), np.asarray(cache.heldout.keep), x)
    fake: Any = SimpleNamespace(path=cache.path, fingerprint="c" * 64, attributes=cache.attributes, heldout=heldout)

    def load() -> Any:
        raise AssertionError("autointerp needs no model")

    return Testbed(fake, HOOK, load, KeptWork(tmp_path / "artifacts", {}), 16, torch.device("cpu"))


@pytest.fixture
def subject() -> Subject:
    """Returns an SAE with a latent per token."""
    run: Any = SimpleNamespace(variant="by-hand", seed=0, fingerprint="f" * 64)
    return Subject(run, LinearSAE(torch.eye(24), torch.eye(24)), {})  # type: ignore[arg-type]


@pytest.fixture
def served() -> Iterator[Served]:
    with chat_server() as server:
        yield server


def measure(served: Served, subject: Subject, testbed: Testbed, **settings: Any) -> Measurement:
    metric = Autointerp.parse({"server": served.url, "model": "reader", **SMALL, **settings})
    (measurement,) = metric.measure([subject], testbed, Silent())
    json.dumps([measurement.more, measurement.unstructured, measurement.counts], allow_nan=False)
    return measurement


def figures(measurement: Measurement) -> tuple[float | None, float | None]:
    detection, fuzzing = measurement.metrics["autointerp"]["autointerp_score"], measurement.extra["fuzzing_score"]
    assert isinstance(detection, Estimate)
    assert isinstance(fuzzing, Estimate)
    return detection.value, fuzzing.value


def test_a_model_that_reads_the_marks_explains_each_token(served: Served, subject: Subject, testbed: Testbed) -> None:
    result = measure(served, subject, testbed)
    detection, fuzzing = figures(result)
    assert fuzzing == 1.0
    assert detection is not None
    assert detection > 0.8  # some tokens are parts of other words, which the reader cannot tell
    assert result.counts["latents"] == 4
    assert len(result.more["explanations"]) == 4
    assert all(each["explanation"].startswith("the token ") for each in result.more["explanations"])


@pytest.mark.parametrize("answer", ["[]", "[1, 2, 3, 4, 5]"])
def test_a_model_that_guesses_scores_one_half(served: Served, subject: Subject, testbed: Testbed, answer: str) -> None:
    served.answer = lambda prompt: answer
    assert figures(measure(served, subject, testbed, num_tested=10)) == (0.5, 0.5)


def test_answers_that_are_no_list_do_not_count(served: Served, subject: Subject, testbed: Testbed) -> None:
    served.answer = lambda prompt: reader(prompt) if "one short" in prompt else "All of them, I think: [12]"
    result = measure(served, subject, testbed)
    assert figures(result) == (None, None)
    assert result.counts["unreadable"] == result.counts["questions"] - 4
    (warning,) = result.warnings
    num = result.counts["unreadable"]
    assert warning == f"{num} of {num} answers of reader are no list of numbers"


def test_what_was_answered_is_not_asked_again(served: Served, subject: Subject, testbed: Testbed) -> None:
    """The server fails in the middle; the second call asks only what is left, and scores the same as a whole one."""

    def tired(prompt: str) -> str:
        if len(served.requests) == 9:
            served.failures = [400]
        return reader(prompt)

    served.answer = tired
    with pytest.raises(RemoteError, match="answers 400"):
        measure(served, subject, testbed)
    num_answered = len(served.requests) - 1
    served.answer, served.requests = reader, []
    (path,) = (testbed.kept_work.root / "autointerp").iterdir()
    path.write_text(path.read_text() + '{"torn')
    result = measure(served, subject, testbed)
    assert len(served.requests) == result.counts["questions"] - num_answered
    served.requests = []
    again = measure(served, subject, testbed)
    assert served.requests == []
    assert figures(again) == figures(result)
    assert again.unstructured == result.unstructured


def test_every_question_and_answer_is_in_the_result(served: Served, subject: Subject, testbed: Testbed) -> None:
    result = measure(served, subject, testbed)
    asked = [request["messages"][0]["content"] for request in served.requests]
    assert [entry["prompt"] for entry in result.unstructured.values()] == asked
    assert [entry["text"] for entry in result.unstructured.values()] == [reader(prompt) for prompt in asked]
    assert result.counts["tokens_in"] == 100 * len(asked)
    assert {request["temperature"] for request in served.requests} == {0}


def test_it_tests_on_other_documents_than_it_shows(served: Served, subject: Subject, testbed: Testbed) -> None:
    measure(served, subject, testbed)
    excerpts: dict[bool, set[str]] = {True: set(), False: set()}
    for request in served.requests:
        prompt = request["messages"][0]["content"]
        lines = [line.partition(". ")[2] for line in prompt.splitlines() if line.partition(". ")[0].isdecimal()]
        excerpts["one short" in prompt] |= {line.replace("<<", "").replace(">>", "") for line in lines}
    assert excerpts[True]
    assert not excerpts[True] & excerpts[False]


def test_too_dear_a_study_asks_nothing(served: Served, subject: Subject, testbed: Testbed) -> None:
    with pytest.raises(ConfigError, match=r"about \$\d+\.\d\d, more than max_dollars 0.01"):
        measure(served, subject, testbed, dollars_per_million=[1000.0, 1000.0], max_dollars=0.01)
    assert served.requests == []


def test_a_busy_server_is_asked_again(
    served: Served, subject: Subject, testbed: Testbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "FIRST_WAIT", 1e-3)
    monkeypatch.setenv("MY_KEY", "secret")
    served.failures = [429, 503, 500]
    measure(served, subject, testbed, key_variable="MY_KEY")
    assert set(served.keys) == {"Bearer secret"}
    (path,) = (testbed.kept_work.root / "autointerp").iterdir()
    assert "secret" not in path.read_text()


def test_a_dead_server_is_named(subject: Subject, testbed: Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "FIRST_WAIT", 1e-3)
    with chat_server() as gone:
        pass
    with pytest.raises(RemoteError, match=rf"{gone.url} does not answer: ConnectError.*\(5 attempts\)"):
        measure(gone, subject, testbed)


def test_a_refused_key_says_where_it_belongs(served: Served, subject: Subject, testbed: Testbed) -> None:
    served.failures = [401]
    with pytest.raises(ConfigError, match="refuses the key") as raised:
        measure(served, subject, testbed)
    assert raised.value.hint == "put its key into the environment variable OPENAI_API_KEY"


def test_latents_that_are_hardly_active_have_no_score(served: Served, subject: Subject, testbed: Testbed) -> None:
    """One arm of a study without such latents does not take the others' verdict away."""
    result = measure(served, subject, testbed, num_tested=10_000)
    score = result.metrics["autointerp"]["autointerp_score"]
    assert score == Estimate(None, reason="no latent is active in 4 held-out windows to show and 10000 to test")
    assert served.requests == []


def test_the_browser_shows_explanations(tmp_path: Path) -> None:
    explanation = {"latent": 7, "explanation": "verbs", "detection": 0.875, "fuzzing": None}
    (tmp_path / "autointerp.json").write_text(json.dumps({"saepipe": {"explanations": [explanation]}}))
    assert [role.text for role in roles(tmp_path)[7]] == ['explained as "verbs" (detection 0.88)']


def test_evaluate_measures_it_beside_core(served: Served, toy_cache: Path, tmp_path: Path) -> None:
    settings = {"hook": HOOK, "sae": {"name": "topk", "d_sae": 64, "k": 8}, "steps": 30, "batch_size": 256}
    runs = train(TrainConfig.parse({"cache": str(toy_cache), "device": "cpu", **settings}), tmp_path)
    served.answer = lambda prompt: "the token 'e'" if "one short" in prompt else "[1]"
    metric = {"name": "autointerp", "server": served.url, "model": "reader", **SMALL}
    config = {"device": "cpu", "features": None, "metrics": [{"name": "core", "num_contexts": 2}, metric]}
    _, path = evaluate(runs, config)
    result = json.loads(path.read_text())
    check(result)
    assert len(result["saepipe"]["explanations"]) == 4
    assert "autointerp_score" in open_run(runs[0]).metrics["autointerp"]
    num_asked = len(served.requests)
    evaluate(runs, config)
    assert len(served.requests) == num_asked
