"""delphi: detection and fuzzing by delphi's own explanations, read from the files that it wrote of an exported run.

Paulo et al. 2024 (arXiv 2410.13928). Nothing is asked or encoded here. docs/metrics/autointerp.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.figure_specs import DELPHI_FIGURES, FigureSpec
from saepipe.evaluate.metrics.autointerp.scores import Score, mean_score
from saepipe.evaluate.metrics.base import Measurement, Metric
from saepipe.evaluate.metrics.delphi.results_folder import SCORES, ResultsFolder
from saepipe.evaluate.model.kept_work import Content, Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.stats.intervals import Estimate

KIND = "delphi"
UNPARSED = "Explanation could not be parsed."
"""What delphi keeps, and scores, as an explanation if its model gave none."""


class Delphi(Metric):
    """Settings of `delphi`."""

    name: Literal["delphi"] = "delphi"
    results: tuple[Path, ...] = Field(min_length=1, description="delphi's folders results/NAME, of one run or several")
    runs_texts: ClassVar[bool] = False
    eval_type_id: ClassVar[str] = "delphi"
    version: ClassVar[int] = 1
    shown: ClassVar[Mapping[str, FigureSpec]] = DELPHI_FIGURES

    def works(self, testbed: Testbed) -> list[Work]:
        return [Work(KIND, folder.key()) for folder in self._by_run().values()]

    def measure(self, subjects: Sequence[Subject], testbed: Testbed, progress: Progress) -> list[Measurement]:
        """Raises ConfigError if a folder holds no scores, or two hold those of one run."""
        folders, results = self._by_run(), []
        for subject in subjects:
            folder = folders.get(subject.run.fingerprint)
            if folder is None:
                reason = f"none of {', '.join(map(str, self.results))} holds scores of {subject.name}"
                progress.say(f"delphi: {reason}")
                results.append(_measurement([], reason))
            else:
                content = testbed.kept_work.get(KIND, folder.key(), partial(_content, folder))
                results.append(_measurement(content.info["latents"], "no prediction could be read"))
        return results

    def _by_run(self) -> dict[str, ResultsFolder]:
        by_run: dict[str, ResultsFolder] = {}
        for folder in (each for path in self.results for each in ResultsFolder.of_each_run(path)):
            other = by_run.setdefault(folder.run, folder)
            if other != folder:
                raise ConfigError(f"{other.path} and {folder.path} hold scores of one run", hint="name one of them")
        return by_run


def _content(folder: ResultsFolder) -> Content:
    """Returns the explanation and the scores of each latent, as plain data."""
    explanations, scores = folder.explanations(), {kind: folder.scores(kind) for kind in SCORES}
    latents = sorted({latent for of in scores.values() for latent in of})
    rows = [
        {"latent": latent, "explanation": explanations.get(latent, "")}
        | {kind: asdict(of[latent]) if latent in of else None for kind, of in scores.items()}
        for latent in latents
    ]
    return Content({}, {"latents": rows})


def _measurement(latents: Sequence[Mapping[str, Any]], undefined: str) -> Measurement:
    by_kind = {kind: [Score(**each[kind]) for each in latents if each[kind]] for kind in SCORES}
    every = [each for scores in by_kind.values() for each in scores]
    counts = {
        "latents": len(latents),
        "windows": sum(each.positives + each.negatives + each.num_unreadable for each in every),
        "unreadable": sum(each.num_unreadable for each in every),
        "unparsed_explanations": sum(each["explanation"] == UNPARSED for each in latents),
    }
    return Measurement(
        metrics={"delphi": {f"delphi_{kind}_score": mean_score(of, undefined) for kind, of in by_kind.items()}},
        extra={f"delphi_{kind}_pooled": _pooled(of, undefined) for kind, of in by_kind.items()},
        more={"explanations": [_plain(each) for each in latents]},
        counts=counts,
        warnings=_warnings(counts),
    )


def _pooled(scores: Sequence[Score], undefined: str) -> Estimate:
    """Returns the balanced accuracy over the windows of all latents, which delphi logs."""
    counts = zip(*(asdict(each).values() for each in scores), strict=True)
    value = Score(*map(sum, counts)).balanced_accuracy if scores else None
    return Estimate(value, reason=undefined if value is None else None)


def _plain(latent: Mapping[str, Any]) -> dict[str, Any]:
    accuracies = {kind: Score(**latent[kind]).balanced_accuracy if latent[kind] else None for kind in SCORES}
    return {"latent": latent["latent"], "explanation": latent["explanation"], **accuracies}


def _warnings(counts: Mapping[str, int]) -> list[str]:
    warnings = []
    if counts["unreadable"] > counts["windows"] / 5:
        warnings.append(f"delphi could not read the answers on {counts['unreadable']} of {counts['windows']} windows")
    if unparsed := counts["unparsed_explanations"]:
        warnings.append(f"delphi scored {unparsed} of {counts['latents']} latents without an explanation")
    return warnings
