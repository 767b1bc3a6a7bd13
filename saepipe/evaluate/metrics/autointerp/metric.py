"""Automated interpretability: explanations by a language model, scored by detection and fuzzing.

Paulo et al. 2024, "Automatically Interpreting Millions of Features in Large Language Models" (arXiv 2410.13928), whose
delphi has the same two scores. Explained and tested on different held-out documents. docs/metrics/autointerp.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from saepipe.data.config.base import Count
from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.figure_specs import AUTOINTERP_FIGURES, FigureSpec
from saepipe.evaluate.metrics.autointerp.chat import Answer, Transcript, chat_server
from saepipe.evaluate.metrics.autointerp.prompts import Test, detection, explain, fuzzing
from saepipe.evaluate.metrics.autointerp.scores import Score, mean_score, score
from saepipe.evaluate.metrics.autointerp.windows import LatentWindows, choose, windowed_acts
from saepipe.evaluate.metrics.base import Measurement, Metric
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.stats.intervals import Estimate
from saepipe.evaluate.texts.token_texts import token_texts

FOLDER = "autointerp"
"""Folder of the questions and answers, beside the kept work of the model."""
EXPLANATION_TOKENS, LIST_TOKENS = 60, 60
"""Most tokens of an answer."""
CHARACTERS_PER_TOKEN = 4
"""For an estimate before anything is asked; the servers' own counts are in the result."""


@dataclass(frozen=True)
class ExplainedLatent:
    """One latent with its explanation and scores."""

    latent: int
    explanation: str
    detection: Score
    fuzzing: Score


class Autointerp(Metric):
    """Settings of `autointerp`."""

    name: Literal["autointerp"] = "autointerp"
    server: str = Field(description="address of a server with OpenAI's interface: http://127.0.0.1:8000/v1")
    model: str = Field(description="name of the server's model, which explains and is tested")
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the server's key, if it needs one; the key is never written down."""
    num_latents: Count = Field(default=50, gt=0)
    """Latents to explain, drawn at random among those that are active often enough."""
    num_shown: Count = Field(default=16, ge=2)
    """Windows that the explanation is made from."""
    num_tested: Count = Field(default=20, ge=2)
    """Active and silent windows of the detection, each; of the active ones, half are marked wrongly in the fuzzing."""
    per_prompt: Count = Field(default=10, ge=2)
    """Windows per question."""
    window: Count = Field(default=32, ge=4)
    """Tokens per window."""
    num_contexts: Count = Field(default=500, gt=0)
    """Held-out contexts to use, at most."""
    seed: int = Field(default=0, ge=0)
    dollars_per_million: tuple[float, float] = (0.0, 0.0)
    """Price of a million tokens of questions and of answers."""
    max_dollars: float = Field(default=10.0, ge=0)
    """Refuse to ask if the estimate is higher."""
    timeout: float = Field(default=120.0, gt=0)
    """Seconds to wait for an answer."""
    runs_texts: ClassVar[bool] = False
    eval_type_id: ClassVar[str] = "autointerp"
    version: ClassVar[int] = 1
    shown: ClassVar[Mapping[str, FigureSpec]] = AUTOINTERP_FIGURES

    def measure(self, subjects: Sequence[Subject], testbed: Testbed, progress: Progress) -> list[Measurement]:
        """Raises ConfigError if the tokenizer is missing, or the estimate of the cost is too high."""
        text = self._text(testbed)
        by_subject = [self._chosen(subject, testbed) for subject in subjects]
        self._say_cost([each for chosen in by_subject for each in chosen], text, progress)
        folder = testbed.kept_work.root / FOLDER
        results = []
        with chat_server(self.server, self.model, self.key_variable, self.timeout) as server:
            for subject, chosen in zip(subjects, by_subject, strict=True):
                transcript = Transcript(folder / f"{subject.run.fingerprint[:16]}.jsonl", server)
                results.append(self._measured(subject, chosen, text, transcript, progress))
        return results

    def _text(self, testbed: Testbed) -> Callable[[int], str]:
        contexts = testbed.cache.heldout.contexts[: testbed.num_contexts(self.num_contexts)]
        texts, why_not = token_texts(testbed.cache, np.unique(contexts).tolist())
        if why_not:
            raise ConfigError(f"autointerp shows text, and {why_not}", hint="evaluate where the tokenizer is")
        return texts.__getitem__

    def _chosen(self, subject: Subject, testbed: Testbed) -> list[LatentWindows]:
        acts = windowed_acts(subject, testbed, testbed.num_contexts(self.num_contexts), self.window)
        return choose(acts, self.num_latents, self.num_shown, self.num_tested, self.seed)

    def _say_cost(self, chosen: Sequence[LatentWindows], text: Callable[[int], str], progress: Progress) -> None:
        """Says how much would be asked, before anything is; raises ConfigError if that costs more than allowed."""
        prompts = [prompt for each in chosen for prompt in self._prompts(each, "x" * 4 * EXPLANATION_TOKENS, text)]
        tokens_in = sum(map(len, prompts)) / CHARACTERS_PER_TOKEN
        tokens_out = len(prompts) * LIST_TOKENS
        price_in, price_out = self.dollars_per_million
        dollars = (tokens_in * price_in + tokens_out * price_out) / 1e6
        costs = f"about ${dollars:.2f}" if dollars else "no price is set (dollars_per_million)"
        asks = f"autointerp asks {self.model} at most {len(prompts):,} questions of {tokens_in:,.0f} tokens: {costs}"
        if dollars > self.max_dollars:
            raise ConfigError(f"{asks}, more than max_dollars {self.max_dollars:g}", hint="explain fewer latents")
        progress.say(asks)

    def _prompts(self, windows: LatentWindows, explanation: str, text: Callable[[int], str]) -> list[str]:
        tests = self._tests(windows, explanation, text)
        return [explain(windows, text), *(test.prompt for kind in tests for test in kind)]

    def _tests(
        self, windows: LatentWindows, explanation: str, text: Callable[[int], str]
    ) -> tuple[list[Test], list[Test]]:
        arguments = (windows, explanation, text, self.per_prompt, self.seed)
        return detection(*arguments), fuzzing(*arguments)

    def _measured(
        self,
        subject: Subject,
        chosen: Sequence[LatentWindows],
        text: Callable[[int], str],
        transcript: Transcript,
        progress: Progress,
    ) -> Measurement:
        progress.start(f"autointerp of {subject.name}", len(chosen), "latents")
        explained, answers = [], list[Answer]()
        try:
            for windows in chosen:
                explained.append(self._explain(windows, text, transcript, answers))
                progress.advance(1)
        finally:
            progress.finish()
        return self._measurement(explained, answers)

    def _explain(
        self, windows: LatentWindows, text: Callable[[int], str], transcript: Transcript, answers: list[Answer]
    ) -> ExplainedLatent:
        def ask(prompts: Iterable[str], most: int) -> list[Answer]:
            new = [transcript.ask(prompt, most) for prompt in prompts]
            answers.extend(new)
            return new

        (first,) = ask([explain(windows, text)], EXPLANATION_TOKENS)
        explanation = " ".join(first.text.split())
        detects, fuzzes = self._tests(windows, explanation, text)
        scores = [score(tests, ask((test.prompt for test in tests), LIST_TOKENS)) for tests in (detects, fuzzes)]
        return ExplainedLatent(windows.latent, explanation, *scores)

    def _measurement(self, explained: Sequence[ExplainedLatent], answers: Sequence[Answer]) -> Measurement:
        detected, fuzzed = ([getattr(each, kind) for each in explained] for kind in ("detection", "fuzzing"))
        num_unreadable = sum(each.num_unreadable for each in (*detected, *fuzzed))
        num_tests = len(answers) - len(explained)
        too_few = f"no latent is active in {self.num_shown} held-out windows to show and {self.num_tested} to test"
        undefined = "no answer could be read" if explained else too_few
        spread = [each.balanced_accuracy for each in detected if each.balanced_accuracy is not None]
        unreadable = f"{num_unreadable} of {num_tests} answers of {self.model} are no list of numbers"
        return Measurement(
            metrics={
                "autointerp": {
                    "autointerp_score": mean_score(detected, undefined),
                    "autointerp_std_dev": Estimate(float(np.std(spread, ddof=1)))
                    if len(spread) > 1
                    else Estimate(None, reason="fewer than two latents have a score"),
                }
            },
            extra={"fuzzing_score": mean_score(fuzzed, undefined)},
            more={"explanations": [_plain(each) for each in explained]},
            unstructured={str(number): vars(answer) for number, answer in enumerate(answers)},
            counts={
                "latents": len(explained),
                "questions": len(answers),
                "unreadable": num_unreadable,
                "tokens_in": sum(answer.tokens_in for answer in answers),
                "tokens_out": sum(answer.tokens_out for answer in answers),
            },
            warnings=[unreadable] if num_unreadable > num_tests / 5 else [],
            eval_config={"model_name": self.model, "n_latents": self.num_latents, "random_seed": self.seed},
        )


def _plain(each: ExplainedLatent) -> dict[str, Any]:
    return {
        "latent": each.latent,
        "explanation": each.explanation,
        "detection": each.detection.balanced_accuracy,
        "fuzzing": each.fuzzing.balanced_accuracy,
    }
