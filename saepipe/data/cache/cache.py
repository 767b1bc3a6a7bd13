"""A cache of residual activations: what lies in the folder, and a finished one opened for reading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import zarr

from saepipe.data.cache.activations import Activations, Index
from saepipe.data.cache.codecs import Profile
from saepipe.data.cache.int8 import NUM_EXACT, RECONSTRUCT, index_dtype
from saepipe.data.cache.int8_rows import Int8Rows
from saepipe.data.cache.mapped_rows import Files, MappedRows
from saepipe.data.cache.shards import RowArray
from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.folders import artifact
from saepipe.data.terminal.display import Displayed

FORMAT_VERSION = 2
"""The newest layout of the folder that this saepipe reads: 1, or 2 where the training rows are `int8`."""

BFLOAT16 = {"logical_dtype": "bfloat16", "bit_layout": "ieee-bf16-le"}
Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")


@dataclass(frozen=True)
class Layout:
    """The row arrays of a cache.

    Training rows: activations and norms a hook, with context and position in the same order. With profile `int8`
    a hook's activations are several arrays (`saepipe.data.cache.int8`).
    Held-out rows: activations a hook at all positions of all contexts, in order, always lossless.
    """

    hooks: tuple[str, ...]
    d_in: int
    context_size: int
    shard_rows: int
    chunk_rows: int
    profile: Profile

    def __post_init__(self) -> None:
        if self.profile == "int8" and self.d_in <= NUM_EXACT:
            raise ConfigError(
                f"codec int8 keeps {NUM_EXACT} entries of each row exact, and a row has only {self.d_in}",
                hint="codec: lossless",
            )

    @property
    def format_version(self) -> int:
        """Which readers can read it: one that knows no `int8` must refuse it."""
        return 2 if self.profile == "int8" else 1

    def rows(self, split: Split) -> dict[str, RowArray]:
        """The arrays with a row a token of this split, by name."""
        if split == "heldout":
            arrays = [self._acts(f"heldout/acts/{hook}", "lossless") for hook in self.hooks]
        else:
            arrays = [array for hook in self.hooks for array in self.train_acts(hook)]
            arrays += [self._row(f"norm/{hook}", "float32", ()) for hook in self.hooks]
            arrays += [self._row("context_id", "int64", ()), self._row("position", "int32", ())]
        return {array.name: array for array in arrays}

    def contexts(self, split: Split) -> dict[str, RowArray]:
        """The arrays with a row a context of this split, by name: token ids, documents, and what to keep."""
        prefix = "heldout/" if split == "heldout" else ""
        shape = (self.context_size,)
        arrays = [
            self._row(f"{prefix}contexts", "int32", shape),
            self._row(f"{prefix}documents", "int32", shape),
            self._row(f"{prefix}keep", "bool", shape),
        ]
        return {array.name: array for array in arrays}

    def channels(self, hook: str) -> list[RowArray]:
        """What `int8` freezes, a value a channel: mean and std."""
        names = ("mean", "std") if self.profile == "int8" else ()
        return [RowArray(f"int8/{hook}/{name}", "float32", (), self.d_in, self.d_in, "none") for name in names]

    def train_acts(self, hook: str) -> list[RowArray]:
        """The training activations at one hook; with `int8`, in the order of `QuantisedRows`."""
        if self.profile != "int8":
            return [self._acts(f"acts/{hook}", self.profile)]

        size, exact = (self.shard_rows, self.chunk_rows), (NUM_EXACT,)
        return [
            RowArray(f"acts/{hook}", "int8", (self.d_in,), *size, "int8", {"reconstruct": RECONSTRUCT}),
            RowArray(f"int8/{hook}/scale", "float32", (), *size, "none"),
            RowArray(f"int8/{hook}/outlier_index", index_dtype(self.d_in), exact, *size, "none"),
            RowArray(f"int8/{hook}/outlier_value", "uint16", exact, *size, "none", BFLOAT16),
        ]

    def _acts(self, name: str, profile: Profile) -> RowArray:
        return RowArray(name, "uint16", (self.d_in,), self.shard_rows, self.chunk_rows, profile, BFLOAT16)

    def _row(self, name: str, dtype: str, shape: tuple[int, ...]) -> RowArray:
        return RowArray(name, dtype, shape, self.shard_rows, self.chunk_rows, "lossless")


@dataclass(frozen=True)
class ActivationStats:
    """Of the stored training rows at one hook, each (d_in,) float64."""

    mean: np.ndarray
    std: np.ndarray
    absmax: np.ndarray

    @property
    def mean_square_norm(self) -> float:
        """E ||x||^2."""
        return float((self.mean**2 + self.std**2).sum())


@dataclass(frozen=True)
class Heldout:
    """Contexts of documents that never enter training, with activations at all positions.

    contexts (num_contexts, context_size) int32 token ids; documents, same shape, int32: which document a token is
    of; keep, same shape, bool: False at BOS and other special tokens.
    """

    contexts: np.ndarray
    documents: np.ndarray
    keep: np.ndarray
    rows: Mapping[str, MappedRows]

    def activations(self, hook: str, start: int, stop: int) -> torch.Tensor:
        """bfloat16 (stop - start, context_size, d_in) of contexts [start, stop)."""
        size = self.contexts.shape[1]
        bits = self.rows[hook].read(start * size, stop * size)
        return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).view(stop - start, size, -1)


@dataclass(frozen=True, repr=False)
class Cache(Displayed):
    """A finished cache, its manifest checked against its seal and its files against their sizes."""

    path: Path
    fingerprint: str
    attributes: Mapping[str, Any]
    lines: tuple[artifact.Line, ...]

    @classmethod
    def open(cls, path: Path | str) -> Cache:
        """Opens a finished cache.

        Raises:
            CorruptDataError: if it is unfinished, a file is missing or of the wrong size, or its metadata was changed.
            ConfigError: if this version cannot read it.
        """
        path = Path(path)
        fingerprint, lines = artifact.open_committed(path, "cache")
        for line in lines:  # the metadata is small, and no checksum of its own guards it
            for problem in artifact.damaged_files(path, [line], hashes=line["kind"] == "metadata"):
                raise CorruptDataError(problem, hint=f"saepipe cache verify {path} shows all that is damaged")
        attributes: Any = zarr.open_group(path, mode="r").attrs["saepipe"]
        if attributes["format_version"] > FORMAT_VERSION:
            version = attributes["format_version"]
            raise ConfigError(
                f"{path} has format version {version}; this saepipe reads {FORMAT_VERSION}", hint="update"
            )
        return cls(path, fingerprint, attributes, tuple(lines))

    @property
    def hooks(self) -> tuple[str, ...]:
        return tuple(self.attributes["hooks"])

    @property
    def d_in(self) -> int:
        return int(self.attributes["d_in"])

    @property
    def num_tokens(self) -> int:
        """Stored training rows."""
        return self.rows(self.hooks[0]).num_rows

    @property
    def files(self) -> Files:
        return {name: entry for line in self.lines for name, entry in line.get("files", {}).items()}

    def rows(self, hook: str) -> MappedRows:
        """The training activations at `hook`, (num_tokens, d_in) bfloat16 bits; raises ConfigError if not cached."""
        files = self.files
        rows = MappedRows(self.path, f"acts/{self._known(hook)}", files)
        return Int8Rows(rows, self.path, f"int8/{hook}", files) if rows.array.profile == "int8" else rows

    def acts(self, hook: str | None = None) -> Activations:
        """The training activations at `hook`, to be read by row numbers; without one, at the cache's only hook."""
        if hook is None and len(self.hooks) > 1:
            raise ConfigError(f"{self.path} has {len(self.hooks)} hooks: {', '.join(self.hooks)}", hint="acts(HOOK)")
        return Activations(hook or self.hooks[0], self.rows(hook or self.hooks[0]))

    def __getitem__(self, rows: Index) -> torch.Tensor:
        """bfloat16 (d_in,) or (n, d_in): training rows of a cache with one hook; else `acts(hook)[rows]`."""
        return self.acts()[rows]

    def stats(self, hook: str) -> ActivationStats:
        group = zarr.open_group(self.path, mode="r")
        stats: Any = group[f"stats/{self._known(hook)}"]
        return ActivationStats(*(np.asarray(stats[name][...], np.float64) for name in ("mean", "std", "absmax")))

    @cached_property
    def heldout(self) -> Heldout:
        """The held-out contexts; raises ConfigError if the cache was made without."""
        if not self.attributes["num_heldout_contexts"]:
            raise ConfigError(f"{self.path} has no held-out contexts", hint="harvest with heldout_tokens > 0")
        contexts, documents, keep = (self._read_all(f"heldout/{name}") for name in ("contexts", "documents", "keep"))
        rows = {hook: MappedRows(self.path, f"heldout/acts/{hook}", self.files) for hook in self.hooks}
        return Heldout(contexts, documents, keep, rows)

    def facts(self) -> Mapping[str, Any]:
        dataset = self.attributes["config"].get("dataset", {})
        return {
            "path": self.path,
            "fingerprint": self.fingerprint[:16],
            "model": self.attributes["model"]["id"],
            "dataset": dataset.get("source", "unknown"),
            "hooks": self.hooks,
            "tokens": self.num_tokens,
            "held-out contexts": self.attributes["num_heldout_contexts"],
            "d_in": self.d_in,
            "codec": self.rows(self.hooks[0]).array.profile,
        }

    def damage(self) -> list[str]:
        """A sentence for each file whose size or content is not what the manifest says."""
        return list(artifact.damaged_files(self.path, self.lines))

    def _read_all(self, name: str) -> np.ndarray:
        rows = MappedRows(self.path, name, self.files)
        return rows.read(0, rows.num_rows)

    def _known(self, hook: str) -> str:
        if hook not in self.hooks:
            raise ConfigError(f"{self.path} has no hook {hook!r}", hint=f"it has {', '.join(self.hooks)}")
        return hook


def open_cache(path: Path | str) -> Cache:
    """`Cache.open`."""
    return Cache.open(path)
