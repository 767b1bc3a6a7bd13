"""The feature store: what is known of each latent of a run, read from the memory-mapped file. It imports no torch.

RUN/features/  info.json             `Info`
               tokens.json           the text of each token id that stands in it
               features.safetensors  the arrays; `write.py` lists them
               manifest.jsonl  COMMITTED
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.folders import artifact
from saepipe.evaluate.features.mapped_tensors import mapped

FOLDER, INFO, TOKENS, ARRAYS = "features", "info.json", "tokens.json", "features.safetensors"
RUN_PATH = "log/run"
"""Where the run lay when its store was made elsewhere than in it; outside every digest."""
FORMAT_VERSION = 1
EVALUATE = "saepipe evaluate RUN"


@dataclass(frozen=True)
class Info:
    """What the store is of."""

    variant: str
    seed: int
    run: str  # fingerprint
    cache: str  # fingerprint
    hook: str
    model: Mapping[str, Any]  # id, revision, digests: as the cache has it
    dataset: Mapping[str, Any]  # source, revision
    d_in: int
    d_sae: int
    context_size: int
    split: str  # "train" or "heldout": of the cache
    num_tokens: int  # read
    num_contexts: int  # read, at least in part
    num_dead: int  # latents active on none of those tokens
    coactive_tokens: int  # on which active latents were counted in pairs
    num_top: int  # examples of the strongest contexts, a latent
    num_quantiles: int  # groups of a random sample of active tokens
    per_quantile: int  # examples a group
    window: int  # tokens an example
    settings: Mapping[str, Any] = field(default_factory=dict)  # `Features`, as plain data
    no_logits: str | None = None  # why there are none
    no_texts: str | None = None  # why tokens are shown as ids
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class Example:
    """A piece of a context, and one latent's activations on it."""

    tokens: list[str]  # (window,)
    acts: list[float | None]  # (window,); None: not known (a special token, or one that was not read)
    peak: int  # index of the example's token in `tokens`: the context's strongest, or the one that was drawn
    group: str  # "top", or "q1" to "qn", from weak to strong
    context: int  # number of the context in the cache's split
    position: int  # of the peak in its context
    start: int  # of the window in its context
    document: int  # of the peak


@dataclass(frozen=True)
class Latent:
    """One latent. A dead one (num_active 0) has no examples, and no mean and largest activation."""

    index: int
    density: float  # share of tokens on which it is active
    num_active: int  # tokens
    mean_act: float | None  # over the tokens on which it is active
    max_act: float | None
    histogram: tuple[list[float], list[int]]  # edges (num_bins + 1,), counts (num_bins,); both empty where dead
    examples: list[Example]  # top, strongest first; then q1 to qn
    positive_logits: list[tuple[str, float]] | None  # the largest first; None: see Info.no_logits
    negative_logits: list[tuple[str, float]] | None  # the most negative first
    neighbours: list[tuple[int, float]]  # by decoder cosine, nearest first
    coactive: list[tuple[int, float]]  # by Jaccard index, largest first; none with index 0

    @property
    def dead(self) -> bool:
        return self.num_active == 0


class FeatureStore:
    """An open store. Nothing of a latent is read before it is asked for."""

    def __init__(self, folder: Path, info: Info, texts: Mapping[int, str], arrays: Mapping[str, np.ndarray]) -> None:
        self.folder, self.info, self.arrays, self._texts = folder, info, arrays, texts

    @classmethod
    def open(cls, run_or_folder: Path | str) -> FeatureStore:
        """The store of a run, or in a folder of its own. Files' sizes are checked; `damage` checks their content.

        Raises:
            ConfigError: if there is none, or this version cannot read it.
            CorruptDataError: if it is unfinished, or a file is missing or damaged.
        """
        folder = store_folder(Path(run_or_folder))
        _, lines = artifact.open_committed(folder, "feature store")
        for problem in artifact.damaged_files(folder, lines, hashes=False):
            raise _damaged(problem)
        try:
            raw = json.loads((folder / INFO).read_text())
            if raw["format_version"] > FORMAT_VERSION:
                version = raw["format_version"]
                raise ConfigError(f"{folder} has format version {version}; this saepipe reads {FORMAT_VERSION}")
            info = Info(**raw)
            texts = json.loads((folder / TOKENS).read_text())
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise _damaged(f"{folder} is no feature store ({error})") from error
        arrays = mapped(folder / ARRAYS)
        known = dict(zip(texts["ids"], texts["texts"], strict=True))
        return cls(folder, info, known, arrays)

    def damage(self) -> list[str]:
        """A sentence for each file whose content is not what the manifest says; reads all of them."""
        return list(artifact.damaged_files(self.folder, artifact.read_manifest(self.folder)))

    @cached_property
    def columns(self) -> Mapping[str, np.ndarray]:
        """What one sorts by, (d_sae,) each: density, num_active, mean_act, max_act, decoder_norm,
        top_neighbour_cosine, top_coactive_score. NaN where a latent has no such number."""
        names = ("num_active", "mean_act", "max_act", "decoder_norm")
        columns = {name: np.array(self.arrays[name]) for name in names}
        columns["density"] = columns["num_active"] / self.info.num_tokens
        for name, values in (("top_neighbour_cosine", "neighbour_cosine"), ("top_coactive_score", "coactive_score")):
            array = self.arrays[values]
            columns[name] = array[:, 0].copy() if array.shape[1] else np.full(self.info.d_sae, np.nan, np.float32)
        return columns

    @cached_property
    def decoder(self) -> np.ndarray:
        """(d_sae, d_in) float32, unit rows (zeros stay zeros); the run's own weights, mapped where they have unit norm.

        Raises:
            ConfigError: if the run is not where it was when a store outside of it was made.
        """
        W_dec = mapped(self._run_folder() / "sae" / "sae_weights.safetensors")["W_dec"]
        norm = np.array(self.arrays["decoder_norm"])[:, None]
        if np.allclose(norm, 1, rtol=0, atol=1e-5):
            return W_dec
        unit: np.ndarray = np.divide(W_dec, norm, out=np.zeros_like(W_dec), where=norm > 0)
        return unit

    @cached_property
    def peak_ids(self) -> np.ndarray:
        """(d_sae, num_top) int32: the token ids of the strongest contexts' peaks, strongest first; -1: no example."""
        top = slice(self.info.num_top)
        row, position = self.arrays["example_context"][:, top], self.arrays["example_position"][:, top]
        known, ids = row >= 0, np.full(row.shape, -1, np.int32)
        ids[known] = self.arrays["contexts"][row[known], position[known]]
        return ids

    def top_tokens(self, index: int) -> list[str]:
        """The peak tokens of a latent's strongest examples, each once, strongest first."""
        return list(dict.fromkeys(self.text(int(token)) for token in self.peak_ids[index] if token >= 0))

    def search(self, text: str) -> np.ndarray:
        """The latents (num,) that have `text`, in any case, in a peak token of their strongest examples."""
        ids = [token for token, one in self._texts.items() if text.casefold() in one.casefold()]
        return np.flatnonzero(np.isin(self.peak_ids, ids).any(axis=1))

    def text(self, token: int) -> str:
        """How a token reads, its space in front included; `[id]` where the tokenizer is not known."""
        return self._texts.get(token, f"[{token}]")

    def latent(self, index: int) -> Latent:
        """All that is known of one latent; raises ConfigError if there is none of this index."""
        if not 0 <= index < self.info.d_sae:
            raise ConfigError(f"latent {index} of {self.info.d_sae:,}", hint=f"0 to {self.info.d_sae - 1}")
        arrays, num_active = self.arrays, int(self.arrays["num_active"][index])
        return Latent(
            index=index,
            density=num_active / self.info.num_tokens,
            num_active=num_active,
            mean_act=float(arrays["mean_act"][index]) if num_active else None,
            max_act=float(arrays["max_act"][index]) if num_active else None,
            histogram=self._histogram(index),
            examples=[self._example(index, slot) for slot in _filled(arrays["example_context"][index])],
            positive_logits=self._logits("positive", index),
            negative_logits=self._logits("negative", index),
            neighbours=_ranked(arrays["neighbours"][index], arrays["neighbour_cosine"][index]),
            coactive=_ranked(arrays["coactive"][index], arrays["coactive_score"][index]),
        )

    def _histogram(self, index: int) -> tuple[list[float], list[int]]:
        """From the first bin that holds something to the last."""
        counts = self.arrays["histogram"][index]
        filled = np.flatnonzero(counts)
        if not len(filled):
            return [], []
        first, last = int(filled[0]), int(filled[-1])
        return self.arrays["histogram_edges"][first : last + 2].tolist(), counts[first : last + 1].tolist()

    def _example(self, index: int, slot: int) -> Example:
        arrays, info = self.arrays, self.info
        row, position = int(arrays["example_context"][index, slot]), int(arrays["example_position"][index, slot])
        start = window_start(position, info.window, info.context_size)
        heat = arrays["heat"][index, slot].astype(np.float32) * arrays["max_act"][index]
        tokens = arrays["contexts"][row, start : start + info.window]
        return Example(
            tokens=[self.text(token) for token in tokens.tolist()],
            acts=[None if act != act else act for act in heat.tolist()],
            peak=position - start,
            group=self._group(index, slot),
            context=int(arrays["context_ids"][row]),
            position=position,
            start=start,
            document=int(arrays["documents"][row, position]),
        )

    def _group(self, index: int, slot: int) -> str:
        """The sample is sorted; its groups are of equal size, or as equal as can be where it is not full."""
        if slot < self.info.num_top:
            return "top"
        found = int((self.arrays["example_context"][index, self.info.num_top :] >= 0).sum())
        return f"q{(slot - self.info.num_top) * self.info.num_quantiles // found + 1}"

    def _logits(self, sign: str, index: int) -> list[tuple[str, float]] | None:
        if self.info.no_logits:
            return None
        ids, values = self.arrays[f"{sign}_ids"][index], self.arrays[f"{sign}_values"][index]
        return [(self.text(token), value) for token, value in zip(ids.tolist(), values.tolist(), strict=True)]

    def _run_folder(self) -> Path:
        elsewhere = self.folder / RUN_PATH
        run = Path(elsewhere.read_text().strip()) if elsewhere.is_file() else self.folder.parent
        sealed = run / artifact.COMMITTED
        if not sealed.is_file() or sealed.read_text().strip() != self.info.run:
            raise ConfigError(f"the run that {self.folder} is of is not at {run}", hint=EVALUATE)
        return run


def store_folder(run_or_folder: Path) -> Path:
    """The folder of a store; raises ConfigError if there is none."""
    for folder in (run_or_folder / FOLDER, run_or_folder):
        if (folder / INFO).is_file():
            return folder
    raise ConfigError(f"{run_or_folder} has no feature store", hint=EVALUATE)


def window_start(position: int, window: int, context_size: int) -> int:
    """Where the window around a token begins: two thirds of it before the token, as far as the context reaches."""
    return max(0, min(position - window * 2 // 3, context_size - window))


def _filled(rows: np.ndarray) -> list[int]:
    slots: list[int] = np.flatnonzero(rows >= 0).tolist()
    return slots


def _ranked(index: np.ndarray, score: np.ndarray) -> list[tuple[int, float]]:
    """-1 is nobody."""
    return [(i, s) for i, s in zip(index.tolist(), score.tolist(), strict=True) if i >= 0]


def _damaged(problem: str) -> CorruptDataError:
    return CorruptDataError(problem, hint=f"delete the folder, then {EVALUATE}")
