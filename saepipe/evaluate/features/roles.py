"""Roles of single latents in the evaluations of a run. Reads JSON, and does not import torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saepipe.data.errors import CorruptDataError
from saepipe.data.folders.sealed_result import again, read_result

MIN_F1 = 0.6
"""F1 below which a latent is not said to have a role: what absorption asks of the model's own probe."""

LatentRoles = Iterator[tuple[int, "Role"]]


@dataclass(frozen=True)
class Role:
    """The role of one latent in one evaluation."""

    metric: str  # the result's file name: absorption, sparse_probing, tpp, scr, autointerp, delphi
    kind: str  # split, absorbs, probe, off, explained
    text: str  # a sentence without its full stop
    about: tuple[str, ...]  # search terms: the letter and its words, or the class and its dataset
    value: float | None = None  # F1 of the split, words absorbed, accuracy of the probe; None for ablated latents
    f1: float | None = None  # with which it, or the latents that it is one of, tell the class; None: not measured

    @property
    def named(self) -> bool:
        """True if the F1 is high enough to call this the latent's role; otherwise it is a weak lead."""
        return self.f1 is not None and self.f1 >= MIN_F1


def roles(folder: Path | str) -> dict[int, list[Role]]:
    """Returns roles by latent, from the results in a run or in a folder of results; empty if there are no results.

    Raises:
        CorruptDataError: if a result cannot be read, or was changed after it was written.
    """
    folder = Path(folder)
    by_latent: dict[int, list[Role]] = defaultdict(list)
    for metric, read_roles in _READERS.items():
        path = next((p for p in (folder / "eval" / f"{metric}.json", folder / f"{metric}.json") if p.is_file()), None)
        if path is None:
            continue
        try:
            for latent, role in read_roles(read_result(path)):
                by_latent[latent].append(role)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptDataError(f"{path} is not a saepipe evaluation", hint=again(path)) from error
    return dict(by_latent)


def _absorption(result: Mapping[str, Any]) -> LatentRoles:
    for letter in result["saepipe"]["letters"]:
        name, own = f'"{letter["first_letter"]}"', letter["split_latents"]
        f1 = letter.get("f1_split_test", letter["f1_split"])  # on words that did not choose the latents, if known
        for latent in own:
            text = f"{_share('the latent', len(own))} for words that begin with {name} (F1 {f1:.2f})"
            yield latent, Role("absorption", "split", text, (letter["first_letter"],), f1, f1)
        for latent, num in letter["top_absorbers"] or ():
            words = letter.get("absorbed_words", {}).get(str(latent), [])
            words = [word.strip() for word in words]
            listed = ", ".join(words) + (", ..." if 0 < len(words) < num else "")
            text = f"absorbs {name} on {num} word{'s' if num > 1 else ''}" + (f": {listed}" if words else "")
            yield latent, Role("absorption", "absorbs", text, (letter["first_letter"], *words), float(num), f1)


def _sparse_probing(result: Mapping[str, Any]) -> LatentRoles:
    for dataset, about in result["saepipe"]["datasets"].items():
        accuracies = result["eval_result_unstructured"][f"{dataset}_results"]
        sizes = sorted(int(key.split("_")[2]) for key in accuracies if key.startswith("sae_top_"))
        for label, latents in about["latents"].items():
            by_size = {size: accuracies[f"sae_top_{size}_test_accuracy"][label] for size in sizes}
            enough = next((size for size in sizes if _least_f1(by_size[size]) >= MIN_F1), 0)
            for rank, latent in enumerate(latents, 1):
                k = next((size for size in sizes if size >= max(rank, enough)), None)
                if k is None:
                    continue
                which, accuracy = _share("the latent", k), by_size[k]
                text = f'{which} most indicative of "{label}" in {dataset} (accuracy {accuracy:.3f})'
                # Beyond the fewest that tell the class, a latent may add nothing.
                f1 = None if 0 < enough < k else _least_f1(accuracy)
                yield latent, Role("sparse_probing", "probe", text, (label, dataset), accuracy, f1)


def _share(one: str, num: int) -> str:
    return one if num == 1 else f"one of the {num} latents"


def _least_f1(accuracy: float) -> float:
    """Returns the lowest F1 that a probe of this accuracy can have, if half of the texts are of its class.

    With 2n texts there are TP + TN = 2n accuracy right answers, and F1 = 2 TP / (n + TP + FP), which is least if all n
    texts of the other class are among them.
    """
    return max(0.0, (2 * accuracy - 1) / accuracy) if accuracy > 0 else 0.0


def _tpp(result: Mapping[str, Any]) -> LatentRoles:
    for dataset, about in result["saepipe"]["datasets"].items():
        for label, latents in about.get("latents", {}).items():
            for rank, latent in enumerate(latents, 1):
                text = f'rank {rank} by effect on the probe of "{label}" in {dataset}'
                yield latent, Role("tpp", "off", text, (label, dataset))


def _scr(result: Mapping[str, Any]) -> LatentRoles:
    for title, about in result["saepipe"]["datasets"].items():
        for target, latents in about.get("latents", {}).items():
            for rank, latent in enumerate(latents, 1):
                text = f"rank {rank} by effect on the probe of the {target} in {title}"
                yield latent, Role("scr", "off", text, (target, title))


def _autointerp(result: Mapping[str, Any]) -> LatentRoles:
    return _explained("autointerp", "explained", result)


def _delphi(result: Mapping[str, Any]) -> LatentRoles:
    return _explained("delphi", "explained by delphi", result)


def _explained(metric: str, explained: str, result: Mapping[str, Any]) -> LatentRoles:
    for each in result["saepipe"]["explanations"]:
        scores = ((kind, each[kind]) for kind in ("detection", "fuzzing"))
        told = ", ".join(f"{kind} {value:.2f}" for kind, value in scores if value is not None)
        text = f'{explained} as "{each["explanation"]}"{f" ({told})" if told else ""}'
        yield each["latent"], Role(metric, "explained", text, (each["explanation"],), each["detection"])


_READERS = {
    "absorption": _absorption,
    "sparse_probing": _sparse_probing,
    "tpp": _tpp,
    "scr": _scr,
    "autointerp": _autointerp,
    "delphi": _delphi,
}
