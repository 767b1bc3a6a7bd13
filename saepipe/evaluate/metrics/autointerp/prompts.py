"""What the explaining model is asked, and what its answers mean."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from saepipe.evaluate.metrics.autointerp.windows import LatentWindows, Window

OPEN, CLOSE = "<<", ">>"
"""Marks of active tokens."""

_EXPLAIN = f"""\
A unit of a neural network reads text. Below are excerpts on which it is active; the tokens that activate it are \
marked {OPEN}like this{CLOSE}. Say in one short sentence what the marked tokens, or the text before them, have in \
common. Answer with that sentence alone.

{{excerpts}}"""

_DETECT = """\
A unit of a neural network is active on this: {explanation}

Which of these excerpts contain that? Answer with a JSON list of their numbers alone, such as [2, 5], or [].

{excerpts}"""

_FUZZ = f"""\
A unit of a neural network is active on this: {{explanation}}

In each excerpt some tokens are marked {OPEN}like this{CLOSE}. In which excerpts are the marked tokens those that \
activate the unit? Answer with a JSON list of their numbers alone, such as [2, 5], or [].

{{excerpts}}"""


@dataclass(frozen=True)
class Test:
    """A question about several excerpts, and the right answers."""

    prompt: str
    truth: np.ndarray  # (num_excerpts,) bool


def explain(windows: LatentWindows, text: Callable[[int], str]) -> str:
    """Returns the question for an explanation."""
    return _EXPLAIN.format(excerpts=_numbered([marked(each, each.acts > 0, text) for each in windows.shown]))


def detection(
    windows: LatentWindows, explanation: str, text: Callable[[int], str], per_prompt: int, seed: int
) -> list[Test]:
    """Returns questions which of some excerpts activate the latent: half of all do (Paulo et al., arXiv 2410.13928)."""
    excerpts = [*windows.active, *windows.silent]
    nothing = np.zeros(len(windows.shown[0].ids), bool)
    shown = [marked(each, nothing, text) for each in excerpts]
    truth = np.array([bool(each.acts.any()) for each in excerpts])
    return _tests(_DETECT, explanation, shown, truth, per_prompt, seed)


def fuzzing(
    windows: LatentWindows, explanation: str, text: Callable[[int], str], per_prompt: int, seed: int
) -> list[Test]:
    """Returns questions in which excerpts the right tokens are marked: all are active, and half are marked elsewhere.

    As many tokens are marked as are active, at random among the others.
    """
    rng = np.random.default_rng(seed)
    truth = np.arange(len(windows.active)) % 2 == 0
    shown = [
        marked(each, each.acts > 0 if right else _elsewhere(each, rng), text)
        for each, right in zip(windows.active, truth, strict=True)
    ]
    return _tests(_FUZZ, explanation, shown, truth, per_prompt, seed)


def _elsewhere(window: Window, rng: np.random.Generator) -> np.ndarray:
    silent = np.flatnonzero(window.acts == 0)
    num_marked = min(len(silent), int((window.acts > 0).sum()))
    marks = np.zeros(len(window.acts), bool)
    marks[rng.choice(silent, num_marked, replace=False)] = True
    return marks


def _tests(
    form: str, explanation: str, excerpts: Sequence[str], truth: np.ndarray, per_prompt: int, seed: int
) -> list[Test]:
    order = np.random.default_rng(seed).permutation(len(excerpts))
    parts = [order[start : start + per_prompt] for start in range(0, len(order), per_prompt)]
    return [
        Test(form.format(explanation=explanation, excerpts=_numbered([excerpts[i] for i in part])), truth[part])
        for part in parts
    ]


def marked(window: Window, marks: np.ndarray, text: Callable[[int], str]) -> str:
    """Returns a window's text on one line, each marked token between marks, neighbours between the same ones."""
    pieces = []
    for index, (token, mark) in enumerate(zip(window.ids.tolist(), marks.tolist(), strict=True)):
        begins = mark and not (index and marks[index - 1])
        ends = mark and not (index + 1 < len(marks) and marks[index + 1])
        pieces.append(f"{OPEN if begins else ''}{text(token)}{CLOSE if ends else ''}")
    return "".join(pieces).replace("\n", "\\n")


def _numbered(excerpts: Sequence[str]) -> str:
    return "\n".join(f"{number}. {excerpt}" for number, excerpt in enumerate(excerpts, 1))


def chosen_numbers(answer: str, num_excerpts: int) -> np.ndarray | None:
    """Returns which excerpts an answer names, (num_excerpts,) bool; None if it has no list, or names others."""
    found = re.findall(r"\[[\d,\s]*\]", answer)
    if not found:
        return None
    try:
        numbers = json.loads(found[-1])
    except ValueError:
        return None
    if not all(1 <= number <= num_excerpts for number in numbers):
        return None
    chosen = np.zeros(num_excerpts, bool)
    chosen[[number - 1 for number in numbers]] = True
    return chosen
