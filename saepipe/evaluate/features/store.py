"""Reads a feature store: the data on each latent of a run, from a memory-mapped file. Does not import torch.

RUN/features/  info.json             `StoreInfo`
               tokens.json           the text of each token id in the store
               features.safetensors  the arrays, listed in `write_store.py`
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
from saepipe.data.remote.places import read_from
from saepipe.evaluate.features.firings import Firings
from saepipe.evaluate.features.mapped_tensors import map_safetensors

FOLDER, INFO, TOKENS, ARRAYS = "features", "info.json", "tokens.json", "features.safetensors"
WEIGHTS = "sae/sae_weights.safetensors"
RUN_PATH = "log/run"
"""File with the run's path, if the store was written outside the run; not covered by any digest."""
FORMAT_VERSION = 2
"""1 had no firings."""
EVALUATE = "saepipe evaluate RUN"


@dataclass(frozen=True)
class StoreInfo:
    """Origin and sizes of a store."""

    variant: str
    seed: int
    run: str  # fingerprint
    cache: str  # fingerprint
    hook: str
    model: Mapping[str, Any]  # id, revision, digests, as in the cache
    dataset: Mapping[str, Any]  # source, revision
    d_in: int
    d_sae: int
    context_size: int
    split: str  # of the cache, "train" or "heldout"
    num_tokens: int  # read
    num_contexts: int  # read, at least in part
    num_dead: int  # latents active on none of those tokens
    coactive_tokens: int  # tokens on which pairs of active latents were counted
    num_top: int  # examples per latent from its strongest contexts
    num_quantiles: int  # groups of a random sample of active tokens
    per_quantile: int  # examples per group
    window: int  # tokens per example
    settings: Mapping[str, Any] = field(default_factory=dict)  # `Features`, as plain data
    target: str | None = None  # hook that a transcoder writes to; None: it is an SAE
    firing_share: float | None = None  # of tokens, on which firings are stored; None: none are
    no_logits: str | None = None  # reason why there are none
    no_texts: str | None = None  # reason why tokens are shown as ids
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class Example:
    """A window of a context, and one latent's activations on it."""

    tokens: list[str]  # (window,)
    acts: list[float | None]  # (window,); None: unknown (a special token, or one that was not read)
    peak: int  # index of the example's token in `tokens`: the context's strongest, or the sampled one
    group: str  # "top", or "q1" to "qn", from weak to strong
    context: int  # number of the context in the cache's split
    position: int  # position of the peak in its context
    start: int  # start of the window in its context
    document: int  # document of the peak


@dataclass(frozen=True)
class Latent:
    """One latent. A dead one (num_active 0) has no examples, no mean activation and no largest activation."""

    index: int
    density: float  # share of tokens on which it is active
    num_active: int  # tokens
    mean_act: float | None  # over the tokens on which it is active
    max_act: float | None
    histogram: tuple[list[float], list[int]]  # edges (num_bins + 1,), counts (num_bins,); both empty if dead
    examples: list[Example]  # top, strongest first; then q1 to qn
    positive_logits: list[tuple[str, float]] | None  # largest first; None: see StoreInfo.no_logits
    negative_logits: list[tuple[str, float]] | None  # most negative first
    neighbours: list[tuple[int, float]]  # by decoder cosine, nearest first
    coactive: list[tuple[int, float]]  # by Jaccard index, largest first; none with index 0

    @property
    def dead(self) -> bool:
        return self.num_active == 0


class FeatureStore:
    """An open store. A latent's data is read only on request, and no file is believed before it was checked."""

    def __init__(self, folder: Path, info: StoreInfo, texts: dict[int, str], files: Mapping[str, Any]) -> None:
        self.folder, self.info, self._texts, self._files = folder, info, texts, files

    @classmethod
    def open(cls, run_or_folder: Path | str) -> FeatureStore:
        """Opens the store of a run, or in a folder of its own.

        The arrays, which are large, are checked when the first of them is read; all other files now.

        Raises:
            ConfigError: if there is no store, or this version cannot read it.
            CorruptDataError: if it is unfinished, or a file is missing or damaged.
        """
        folder = store_folder(Path(run_or_folder))
        _, lines = artifact.open_committed(folder, "feature store")
        files = {name: entry for line in lines for name, entry in line.get("files", {}).items()}
        small = {name: entry for name, entry in files.items() if name != ARRAYS}
        _check(folder, files, hashes=False)
        _check(folder, small)
        try:
            raw = json.loads((folder / INFO).read_bytes())
            if raw["format_version"] > FORMAT_VERSION:
                version = raw["format_version"]
                raise ConfigError(f"{folder} has format version {version}; this saepipe reads {FORMAT_VERSION}")
            info = StoreInfo(**raw)
            texts = json.loads((folder / TOKENS).read_bytes())
            return cls(folder, info, dict(zip(texts["ids"], texts["texts"], strict=True)), files)
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, ConfigError):
                raise
            raise _damaged(f"{folder} is not a feature store ({error})") from error

    @cached_property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """The arrays by name, mapped; the file is checked once, before anything in it is believed.

        Raises:
            CorruptDataError: if it is damaged.
        """
        _check(self.folder, {ARRAYS: self._files[ARRAYS]} if ARRAYS in self._files else {})
        return map_safetensors(self.folder / ARRAYS)

    def damage(self) -> list[str]:
        """Reads all files and returns a sentence for each one whose content differs from the manifest."""
        return list(artifact.damaged_files(self.folder, artifact.read_manifest(self.folder)))

    @cached_property
    def columns(self) -> Mapping[str, np.ndarray]:
        """Columns to sort by, (d_sae,) each: density, num_active, mean_act, max_act, decoder_norm,
        top_neighbour_cosine, top_coactive_score. NaN if a latent has no such number."""
        names = ("num_active", "mean_act", "max_act", "decoder_norm")
        columns = {name: np.array(self.arrays[name]) for name in names}
        columns["density"] = columns["num_active"] / self.info.num_tokens
        for name, values in (("top_neighbour_cosine", "neighbour_cosine"), ("top_coactive_score", "coactive_score")):
            array = self.arrays[values]
            columns[name] = array[:, 0].copy() if array.shape[1] else np.full(self.info.d_sae, np.nan, np.float32)
        return columns

    @cached_property
    def decoder(self) -> np.ndarray:
        """(d_sae, d_in) float32, unit rows (zeros stay zeros); the run's own weights, mapped if they have unit norm.

        Raises:
            ConfigError: if the store is outside its run and the run has moved since.
            CorruptDataError: if the run's weights are damaged.
        """
        run = self.run_folder()
        _, lines = artifact.open_committed(run, "run")
        files = {name: entry for line in lines for name, entry in line.get("files", {}).items()}
        if WEIGHTS in files:
            for problem in artifact.damaged_files(run, [{"files": {WEIGHTS: files[WEIGHTS]}}]):
                raise CorruptDataError(problem, hint=f"saepipe verify {run}")
        W_dec = map_safetensors(run / WEIGHTS)["W_dec"]
        norm = np.array(self.arrays["decoder_norm"])[:, None]
        if np.allclose(norm, 1, rtol=0, atol=1e-5):
            return W_dec
        unit: np.ndarray = np.divide(W_dec, norm, out=np.zeros_like(W_dec), where=norm > 0)
        return unit

    @cached_property
    def firings(self) -> Firings | None:
        """Latents that are active on random tokens; None in a store of format version 1."""
        return None if self.info.firing_share is None else Firings.read(self.arrays)

    @cached_property
    def peak_ids(self) -> np.ndarray:
        """(d_sae, num_top) int32: the token ids of the strongest contexts' peaks, strongest first; -1: no example."""
        top = slice(self.info.num_top)
        row, position = self.arrays["example_context"][:, top], self.arrays["example_position"][:, top]
        filled, ids = row >= 0, np.full(row.shape, -1, np.int32)
        ids[filled] = self.arrays["contexts"][row[filled], position[filled]]
        return ids

    def top_tokens(self, index: int) -> list[str]:
        """Returns the peak tokens of a latent's strongest examples, each once, strongest first."""
        return list(dict.fromkeys(self.text(int(token)) for token in self.peak_ids[index] if token >= 0))

    def search(self, text: str) -> np.ndarray:
        """Returns the latents (num,) with `text`, in any case, in a peak token of their strongest examples."""
        ids = [token for token, token_text in self._texts.items() if text.casefold() in token_text.casefold()]
        return np.flatnonzero(np.isin(self.peak_ids, ids).any(axis=1))

    def text(self, token: int) -> str:
        """Returns a token's text, including its leading space; `[id]` if the tokenizer is unavailable."""
        return self._texts.get(token, f"[{token}]")

    def latent(self, index: int) -> Latent:
        """Returns the data on one latent; raises ConfigError if the index is out of range."""
        if not 0 <= index < self.info.d_sae:
            raise ConfigError(f"there is no latent {index}", hint=f"0 to {self.info.d_sae - 1}")
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
        """Returns edges and counts from the first bin that is not empty to the last."""
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
        """Returns the slot's group. The sample is sorted; its groups are of equal size, or nearly so if it is short."""
        if slot < self.info.num_top:
            return "top"
        num_sampled = int((self.arrays["example_context"][index, self.info.num_top :] >= 0).sum())
        return f"q{(slot - self.info.num_top) * self.info.num_quantiles // num_sampled + 1}"

    def _logits(self, sign: str, index: int) -> list[tuple[str, float]] | None:
        if self.info.no_logits:
            return None
        ids, values = self.arrays[f"{sign}_ids"][index], self.arrays[f"{sign}_values"][index]
        return [(self.text(token), value) for token, value in zip(ids.tolist(), values.tolist(), strict=True)]

    def run_folder(self) -> Path:
        """Returns the folder of the store's run; raises ConfigError if the run has moved since."""
        elsewhere = self.folder / RUN_PATH
        run = read_from(elsewhere.read_text().strip()) if elsewhere.is_file() else self.folder.parent
        sealed = run / artifact.COMMITTED
        if not sealed.is_file() or sealed.read_text().strip() != self.info.run:
            raise ConfigError(f"the run of {self.folder} is not at {run}", hint=EVALUATE)
        return run


def store_folder(run_or_folder: Path) -> Path:
    """Returns the folder of a store; raises ConfigError if there is no store."""
    for folder in (run_or_folder / FOLDER, run_or_folder):
        if (folder / INFO).is_file():
            return folder
    raise ConfigError(f"{run_or_folder} has no feature store", hint=EVALUATE)


def window_start(position: int, window: int, context_size: int) -> int:
    """Returns the start of the window around a token: two thirds are before it, as far as the context allows."""
    return max(0, min(position - window * 2 // 3, context_size - window))


def _filled(rows: np.ndarray) -> list[int]:
    slots: list[int] = np.flatnonzero(rows >= 0).tolist()
    return slots


def _ranked(index: np.ndarray, score: np.ndarray) -> list[tuple[int, float]]:
    """Returns pairs of index and score, without empty slots (index -1)."""
    return [(i, s) for i, s in zip(index.tolist(), score.tolist(), strict=True) if i >= 0]


def _check(folder: Path, files: Mapping[str, Any], *, hashes: bool = True) -> None:
    """Raises CorruptDataError if one of some files is not as the manifest lists it."""
    for problem in artifact.damaged_files(folder, [{"files": files}], hashes=hashes):
        raise _damaged(problem)


def _damaged(problem: str) -> CorruptDataError:
    return CorruptDataError(problem, hint=f"{EVALUATE} builds the store again")
