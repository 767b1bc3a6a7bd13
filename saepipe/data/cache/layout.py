"""Names, shapes and encodings of a cache's arrays; the only file of the package that spells their paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from saepipe.data.cache.codecs import Profile
from saepipe.data.cache.int8 import NUM_EXACT, index_dtype
from saepipe.data.cache.shards import RowArray
from saepipe.data.cache.zarr_json import MAX_CHUNK_BYTES
from saepipe.data.errors import ConfigError

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")
FOLDERS = ("acts", "int8", "norm", "context_id", "position", "contexts", "documents", "keep", "heldout", "stats")
"""Top-level folders that hold the arrays."""

_BFLOAT16 = {"logical_dtype": "bfloat16", "bit_layout": "ieee-bf16-le"}
_RECONSTRUCT = (
    "x = mean + std * (scale * q) in float32, rounded to bfloat16; q is acts/<hook>, the others lie in int8/<hook>; "
    "then x[outlier_index] = outlier_value of each row, bfloat16 bits as they were"
)
"""Stored with each `int8` array, for readers that have nothing but the cache."""


@dataclass(frozen=True)
class Layout:
    """The arrays of one cache (instance methods), and the paths of arrays in any cache (static methods).

    Training rows: activations and norms per hook, plus each row's context and position, all in the same order. With
    profile `int8`, the activations at one hook are several arrays (`saepipe.data.cache.int8`).
    Held-out rows: activations per hook at all positions of all contexts, in order, always lossless.
    """

    CONTEXT_ID: ClassVar[str] = "context_id"
    POSITION: ClassVar[str] = "position"

    widths: Mapping[str, int]
    """d_in by hook"""
    context_size: int
    shard_rows: int
    chunk_rows: int
    profile: Profile

    def __post_init__(self) -> None:
        narrowest, widest = min(self.widths.values()), max(self.widths.values())
        if (size := self.chunk_rows * widest * 2) > MAX_CHUNK_BYTES:
            raise ConfigError(
                f"a chunk of {self.chunk_rows:,} rows has {size:,} bytes, more than {MAX_CHUNK_BYTES:,}",
                hint=f"chunk_rows of at most {MAX_CHUNK_BYTES // (2 * widest):,}",
            )
        if self.profile == "int8" and narrowest <= NUM_EXACT:
            raise ConfigError(
                f"codec int8 keeps {NUM_EXACT} entries of each row exact, but a row has only {narrowest}",
                hint="codec: lossless",
            )

    @property
    def hooks(self) -> tuple[str, ...]:
        return tuple(self.widths)

    @staticmethod
    def acts(hook: str, split: Split = "train") -> str:
        """Activations; with `int8`, the bytes q of the training rows."""
        return f"{_prefix(split)}acts/{hook}"

    @staticmethod
    def norm(hook: str) -> str:
        return f"norm/{hook}"

    @staticmethod
    def int8(hook: str, part: str) -> str:
        """Arrays that `int8` stores beside q: scale, outlier_index, outlier_value, mean, std, noise."""
        return f"int8/{hook}/{part}"

    @staticmethod
    def stats(hook: str) -> str:
        """Group of the statistics of all training rows: mean, std, absmax."""
        return f"stats/{hook}"

    @staticmethod
    def contexts(split: Split) -> str:
        return f"{_prefix(split)}contexts"

    @staticmethod
    def documents(split: Split) -> str:
        return f"{_prefix(split)}documents"

    @staticmethod
    def keep(split: Split) -> str:
        return f"{_prefix(split)}keep"

    @staticmethod
    def has_activations(path: str) -> bool:
        """True if the array or file at `path` encodes activations, of either split."""
        return "acts/" in path or "int8/" in path

    @property
    def format_version(self) -> int:
        """Version that a reader must know, so that older ones refuse what they cannot read.

        3 with hooks of several widths, 2 with `int8`, otherwise 1.
        """
        if len({*self.widths.values()}) > 1:
            return 3
        return 2 if self.profile == "int8" else 1

    def describe_widths(self) -> dict[str, Any]:
        """Returns the cache's attributes about widths: d_in, that of the first hook, and widths if they differ."""
        same = len({*self.widths.values()}) == 1
        return {"d_in": self.widths[self.hooks[0]]} | ({} if same else {"widths": dict(self.widths)})

    def row_arrays(self, split: Split) -> dict[str, RowArray]:
        """Arrays with one row per token of this split, by path."""
        if split == "heldout":
            arrays = [self._acts(hook, self.acts(hook, split), "lossless") for hook in self.hooks]
        else:
            arrays = [array for hook in self.hooks for array in self.train_acts(hook)]
            arrays += [self._row(self.norm(hook), "float32", ()) for hook in self.hooks]
            arrays += [self._row(self.CONTEXT_ID, "int64", ()), self._row(self.POSITION, "int32", ())]
        return {array.name: array for array in arrays}

    def context_arrays(self, split: Split) -> dict[str, RowArray]:
        """Arrays with one row per context of this split, by path: token ids, documents, and which tokens to keep."""
        shape = (self.context_size,)
        arrays = [
            self._row(self.contexts(split), "int32", shape),
            self._row(self.documents(split), "int32", shape),
            self._row(self.keep(split), "bool", shape),
        ]
        return {array.name: array for array in arrays}

    def train_acts(self, hook: str) -> list[RowArray]:
        """The training activations at one hook; with `int8`, in the order of `QuantisedRows.parts`."""
        if self.profile != "int8":
            return [self._acts(hook, self.acts(hook), self.profile)]

        size, exact, d_in = (self.shard_rows, self.chunk_rows), (NUM_EXACT,), self.widths[hook]
        index, value = self.int8(hook, "outlier_index"), self.int8(hook, "outlier_value")
        return [
            RowArray(self.acts(hook), "int8", (d_in,), *size, "int8", {"reconstruct": _RECONSTRUCT}),
            RowArray(self.int8(hook, "scale"), "float32", (), *size, "none"),
            RowArray(index, index_dtype(d_in), exact, *size, "none"),
            RowArray(value, "uint16", exact, *size, "none", _BFLOAT16),
        ]

    def channels(self, hook: str) -> list[RowArray]:
        """The mean and std per channel that `int8` freezes; empty with the other profiles."""
        names, d_in = ("mean", "std") if self.profile == "int8" else (), self.widths[hook]
        return [RowArray(self.int8(hook, name), "float32", (), d_in, d_in, "none") for name in names]

    def shard_moments(self, hook: str, fields: tuple[str, ...]) -> RowArray:
        """Moments of each training shard, one row (len(fields), d_in) per shard."""
        shape, attributes = (len(fields), self.widths[hook]), {"of": list(fields)}
        return RowArray(f"{self.stats(hook)}/shards", "float64", shape, 1, 1, "none", attributes)

    def shard_noise(self, hook: str) -> RowArray:
        """The error of `int8` in each training shard, one row (d_in,) per shard."""
        return RowArray(
            self.int8(hook, "noise"), "float64", (self.widths[hook],), 1, 1, "none", {"of": "(x - x_hat)^2"}
        )

    def _acts(self, hook: str, name: str, profile: Profile) -> RowArray:
        return RowArray(name, "uint16", (self.widths[hook],), self.shard_rows, self.chunk_rows, profile, _BFLOAT16)

    def _row(self, name: str, dtype: str, shape: tuple[int, ...]) -> RowArray:
        return RowArray(name, dtype, shape, self.shard_rows, self.chunk_rows, "lossless")


def _prefix(split: Split) -> str:
    return "heldout/" if split == "heldout" else ""
