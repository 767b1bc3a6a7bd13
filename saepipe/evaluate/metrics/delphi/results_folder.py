"""delphi's folder `results/NAME`, as eai-delphi 0.1.3 (delphi/__main__.py, EleutherAI/delphi) writes it.

    NAME/latents/layers.19/config.json                 of `saepipe export RUN --to delphi --out NAME/latents`
    NAME/explanations/layers.19_latent7.txt            a JSON string
    NAME/scores/detection/layers.19_latent7.txt        a JSON list of windows, one object each; `fuzz` beside it

An object has delphi's `ClassifierOutput` (delphi/scorers/classifier/sample.py): `activating`, which tells whether the
window is one of the latent's (in `fuzz`, whether its marks are right), and the judge's `prediction`, null where its
answer could not be read; `correct`, `probability`, `distance`, `activations` and `str_tokens` are not needed here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saepipe.data.config.base import fingerprint
from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.folders.artifact import digest_files
from saepipe.evaluate.metrics.autointerp.scores import Score

LATENTS, EXPLANATIONS = "latents", "explanations"
SCORES = {"detection": "scores/detection", "fuzzing": "scores/fuzz"}


@dataclass(frozen=True)
class ResultsFolder:
    """What delphi made of one run."""

    path: Path
    module: str
    """delphi's name of the hook"""
    run: str
    """fingerprint of the run that was exported"""

    @classmethod
    def of_each_run(cls, path: Path) -> Iterator[ResultsFolder]:
        """Yields one per exported run, of one hook each.

        Raises:
            ConfigError: if delphi has left no scores there, or nothing tells of which run they are.
        """
        if not any((path / folder).is_dir() for folder in SCORES.values()):
            hint = "name delphi's folder results/NAME, which holds scores/detection or scores/fuzz"
            raise ConfigError(f"{path} holds no scores of delphi", hint=hint)
        configs = {config.parent.name: _config(config) for config in sorted((path / LATENTS).glob("*/config.json"))}
        exported = {module: config["saepipe"]["run"] for module, config in configs.items() if "saepipe" in config}
        if not exported:
            hint = f"move there, or link, what `saepipe export RUN --to delphi --out {path / LATENTS}` writes"
            raise ConfigError(f"nothing below {path / LATENTS} tells of which run the scores are", hint=hint)
        yield from (cls(path, module, run) for module, run in exported.items())

    def key(self) -> dict[str, Any]:
        """Returns what decides the content: the run, and the digests of the files about it."""
        names = [str(path.relative_to(self.path)) for kind in self._folders for path in self._files(kind).values()]
        return {"run": self.run, "files": fingerprint(digest_files(self.path, sorted(names)))}

    def explanations(self) -> dict[int, str]:
        """Returns the explanations by latent, ascending."""
        return {latent: str(_plain(path)) for latent, path in self._files(EXPLANATIONS).items()}

    def scores(self, kind: str) -> dict[int, Score]:
        """Returns a latent's score of each latent that has one, ascending; `kind` is a key of `SCORES`."""
        return {latent: _score(path) for latent, path in self._files(SCORES[kind]).items()}

    @property
    def _folders(self) -> tuple[str, ...]:
        return (EXPLANATIONS, *SCORES.values())

    def _files(self, folder: str) -> Mapping[int, Path]:
        pattern = re.compile(rf"{re.escape(self.module)}_latent(\d+)\.txt")
        names = ((pattern.fullmatch(path.name), path) for path in (self.path / folder).glob("*.txt"))
        return dict(sorted((int(match[1]), path) for match, path in names if match))


def _config(path: Path) -> Mapping[str, Any]:
    config = _plain(path)
    return config if isinstance(config, dict) else {}


def _plain(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise CorruptDataError(f"{path} is no JSON: {error}", hint="let delphi write it again") from None


def _score(path: Path) -> Score:
    try:
        windows = [(window["activating"], window["prediction"]) for window in _plain(path)]
    except (TypeError, KeyError) as error:
        hint = "saepipe reads detection and fuzz of delphi, not its simulation"
        raise CorruptDataError(f"{path} is no list of delphi's predictions: {error}", hint=hint) from None
    answered = [window for window in windows if window[1] is not None]
    truth, said = (np.array([window[index] for window in answered], bool) for index in (0, 1))
    return Score.of(truth, said, len(windows) - len(answered))
