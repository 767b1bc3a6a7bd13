"""A finished cache of activations, opened for reading."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saepipe.data.cache.activations import Activations, Index, bfloat16
from saepipe.data.cache.channel_vectors import read_vector
from saepipe.data.cache.coming_rows import ComingRows
from saepipe.data.cache.int8_rows import Int8Rows
from saepipe.data.cache.layout import SPLITS, Layout
from saepipe.data.cache.manifest_lines import check_lines, total
from saepipe.data.cache.mapped_rows import Files, MappedRows
from saepipe.data.cache.shards import RowArray
from saepipe.data.cache.zarr_json import group_attributes
from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.folders import artifact
from saepipe.data.folders.inside import inside
from saepipe.data.remote.damaged_files import damaged_files
from saepipe.data.remote.places import read_from
from saepipe.data.terminal.display import Displayed

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 3
"""Newest version of the folder's layout that this saepipe reads.

It is 1, or 2 if the training rows are `int8`, or 3 if hooks differ in width.
"""


_COMPARED = ("dtype", "row_shape", "shard_rows", "chunk_rows", "profile")
"""What every array of a cache must share with the layout; notes for other readers may differ."""


@dataclass(frozen=True)
class ActivationStats:
    """Statistics of the stored training rows at one hook, each (d_in,) float64."""

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

    contexts: (num_contexts, context_size) int32 token ids.
    documents: same shape, int32, the number of the document that each token belongs to.
    keep: same shape, bool, False at BOS and other special tokens.
    """

    contexts: np.ndarray
    documents: np.ndarray
    keep: np.ndarray
    rows: Mapping[str, MappedRows]

    def activations(self, hook: str, start: int, stop: int) -> Tensor:
        """Activations of contexts [start, stop), bfloat16 (stop - start, context_size, d_in)."""
        size = self.contexts.shape[1]
        bits = self.rows[hook].read(start * size, stop * size)
        return bfloat16(bits).view(stop - start, size, -1)


@dataclass(frozen=True, repr=False)
class Cache(Displayed):
    """A finished cache, its manifest checked against its seal and its files against their sizes.

    Example:
        >>> cache = sp.open_cache("cache")
        >>> cache[:1024]  # (1024, d_in) bfloat16
        >>> cache.acts("blocks.2.hook_resid_post")[[3, 5]]  # of a cache with several hooks
    """

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
            RemoteError: if it is in a bucket that cannot be read, or does not hold it.
        """
        path = read_from(path)
        fingerprint, lines = artifact.open_committed(path, "cache")
        metadata = [line for line in lines if line["kind"] == "metadata"]  # small, and without checksums of its own
        sizes = damaged_files(path, lines, hashes=False)
        for problem in itertools.chain(sizes, artifact.damaged_files(path, metadata)):
            raise CorruptDataError(problem, hint=f"saepipe cache verify {path} lists all damage")
        check_lines(path, lines)
        attributes = group_attributes(path)
        version = attributes.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise ConfigError(
                f"{path} has format version {version}, but this saepipe reads only up to {FORMAT_VERSION}",
                hint="update saepipe",
            )
        _check_attributes(path, attributes)
        return cls(path, fingerprint, attributes, tuple(lines))

    @property
    def hooks(self) -> tuple[str, ...]:
        return tuple(self.attributes["hooks"])

    @property
    def identity(self) -> str:
        """Its fingerprint; of two caches that are read as one, both."""
        return self.fingerprint

    @property
    def widths(self) -> Mapping[str, int]:
        """d_in by hook."""
        return widths_of(self.attributes)

    @property
    def d_in(self) -> int:
        """Width of the activations; raises ConfigError if it is not the same at every hook."""
        if len({*self.widths.values()}) > 1:
            raise ConfigError(f"{self.path} has hooks of several widths: {dict(self.widths)}", hint="widths[HOOK]")
        return int(self.attributes["d_in"])

    @property
    def num_tokens(self) -> int:
        """Number of stored training rows."""
        return self.rows(self.hooks[0]).num_rows

    @property
    def pool_rows(self) -> int:
        """Training rows that the harvest shuffled together, in whole shards; the last pool may have fewer."""
        pools = (line["num_rows"] for line in self.lines if line["kind"] == "pool" and line["split"] == "train")
        return self.layout.shard_rows * -(-max(pools, default=self.num_tokens) // self.layout.shard_rows)

    @contextmanager
    def coming_from(self, row: int) -> Iterator[ComingRows]:
        """Yields what a training that reads the training rows from `row` on tells this cache."""
        yield ComingRows()

    @cached_property
    def files(self) -> Files:
        return {name: entry for line in self.lines for name, entry in line.get("files", {}).items()}

    @property
    def activation_bytes(self) -> int:
        """Size on disk of all activations, training and held-out."""
        return sum(entry["bytes"] for name, entry in self.files.items() if Layout.has_activations(name))

    def array(self, name: str) -> MappedRows:
        """The array at a path that `Layout` gives; raises CorruptDataError if it is not as the layout says."""
        if name not in self._opened:
            self._opened[name] = self._open_array(name)
        return self._opened[name]

    @cached_property
    def _opened(self) -> dict[str, MappedRows]:
        """Arrays that were opened, each once, since that takes a look at the entry of every shard."""
        return {}

    def _open_array(self, name: str) -> MappedRows:
        rows = MappedRows(self.path, name, self.files)
        expected, num_rows = self._arrays[name]
        if wrong := [key for key in _COMPARED if getattr(rows.array, key) != getattr(expected, key)]:
            ours, theirs = getattr(expected, wrong[0]), getattr(rows.array, wrong[0])
            raise CorruptDataError(f"{self.path / name}: {wrong[0]} is {theirs}, but this cache has {ours}")
        if rows.num_rows != num_rows:
            problem = f"has {rows.num_rows:,} rows, but the manifest lists {num_rows:,}"
            raise CorruptDataError(f"{self.path / name} {problem}")
        return rows

    @cached_property
    def layout(self) -> Layout:
        """The layout that the attributes and the first array of activations imply.

        Raises:
            CorruptDataError: if they contradict each other.
        """
        widths = widths_of(self.attributes)
        first, _ = RowArray.open(self.path, Layout.acts(hook := self.attributes["hooks"][0]))
        if first.row_shape != (d_in := widths[hook],):
            raise CorruptDataError(f"{self.path / first.name} has rows {first.row_shape}, but d_in is {d_in}")
        for key in ("shard_rows", "chunk_rows"):
            if self.attributes["config"].get(key, size := getattr(first, key)) != size:
                raise CorruptDataError(f"{self.path / first.name} has {key} {size:,}, unlike the cache's config")
        sizes = self.attributes["context_size"], first.shard_rows, first.chunk_rows
        try:
            return Layout(widths, *sizes, first.profile)
        except ConfigError as error:
            raise CorruptDataError(f"{self.path / first.name}: {error.message}") from None

    @cached_property
    def _arrays(self) -> Mapping[str, tuple[RowArray, int]]:
        """Each array as the layout describes it, and its number of rows by the manifest."""
        widths = widths_of(self.attributes)
        arrays = {array.name: (array, d_in) for hook, d_in in widths.items() for array in self.layout.channels(hook)}
        for split in SPLITS:
            num_rows = total(self.lines, "shard", split, "num_rows")
            num_contexts = total(self.lines, "contexts", split, "num_contexts")
            arrays |= {name: (array, num_rows) for name, array in self.layout.row_arrays(split).items()}
            arrays |= {name: (array, num_contexts) for name, array in self.layout.context_arrays(split).items()}
        return arrays

    def rows(self, hook: str) -> MappedRows:
        """The training activations at `hook`, (num_tokens, d_in) bfloat16 bits; raises ConfigError if not cached."""
        if hook not in self._rows:
            rows, *_ = [self.array(array.name) for array in self.layout.train_acts(self._check_hook(hook))]
            for channels in self.layout.channels(hook):
                self.array(channels.name)
            is_int8 = rows.array.profile == "int8"
            self._rows[hook] = Int8Rows(rows, self.path, hook, self.files) if is_int8 else rows
        return self._rows[hook]

    @cached_property
    def _rows(self) -> dict[str, MappedRows]:
        """Training rows that were opened, by hook."""
        return {}

    def acts(self, hook: str | None = None) -> Activations:
        """The training activations at `hook`, for indexing by row; by default, at the cache's only hook."""
        if hook is None and len(self.hooks) > 1:
            raise ConfigError(f"{self.path} has {len(self.hooks)} hooks: {', '.join(self.hooks)}", hint="acts(HOOK)")
        return Activations(hook or self.hooks[0], self.rows(hook or self.hooks[0]))

    @property
    def shape(self) -> tuple[int, int]:
        """(num_tokens, d_in) of the training rows; raises ConfigError like `d_in`."""
        return self.num_tokens, self.d_in

    def __len__(self) -> int:
        """Number of training rows."""
        return self.num_tokens

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.acts())

    def __getitem__(self, rows: Index) -> Tensor:
        """bfloat16 (d_in,) or (n, d_in): training rows of a cache with one hook; otherwise use `acts(hook)[rows]`."""
        return self.acts()[rows]

    def stats(self, hook: str) -> ActivationStats:
        folder = inside(self.path, Layout.stats(self._check_hook(hook)))
        names = ("mean", "std", "absmax")
        return ActivationStats(*(read_vector(folder / name, self.widths[hook]).astype(np.float64) for name in names))

    @cached_property
    def heldout(self) -> Heldout:
        """The held-out contexts; raises ConfigError if the cache has none."""
        if not self.attributes["num_heldout_contexts"]:
            raise ConfigError(f"{self.path} has no held-out contexts", hint="harvest with heldout_tokens > 0")
        names = (Layout.contexts("heldout"), Layout.documents("heldout"), Layout.keep("heldout"))
        arrays = [self.array(name) for name in names]
        contexts, documents, keep = (array.read(0, array.num_rows) for array in arrays)
        rows = {hook: self.array(Layout.acts(hook, "heldout")) for hook in self.attributes["hooks"]}
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
            "d_in": dict(self.widths) if "widths" in self.attributes else self.d_in,
            "codec": self.rows(self.hooks[0]).array.profile,
        }

    def damage(self) -> list[str]:
        """Returns a sentence for each file whose size or content differs from the manifest."""
        return list(damaged_files(self.path, self.lines))

    def _check_hook(self, hook: str) -> str:
        if hook not in self.attributes["hooks"]:
            raise ConfigError(f"{self.path} has no hook {hook!r}", hint=f"it has {', '.join(self.hooks)}")
        return hook


def _check_attributes(path: Path, attributes: Mapping[str, Any]) -> None:
    """Raises CorruptDataError unless the attributes that every reader needs are there, and of their kinds."""
    hooks, model = attributes.get("hooks"), attributes.get("model")
    sound = {
        "hooks": isinstance(hooks, list) and hooks and all(isinstance(hook, str) for hook in hooks),
        "model": isinstance(model, dict) and isinstance(model.get("id"), str),
        "config": isinstance(attributes.get("config"), dict),
        "widths": _are_widths(attributes.get("widths", {}), hooks),
    }
    least = {"format_version": 1, "d_in": 1, "context_size": 1, "num_heldout_contexts": 0}
    sound |= {key: type(attributes.get(key)) is int and attributes[key] >= low for key, low in least.items()}
    if wrong := [key for key, good in sound.items() if not good]:
        shown = repr(attributes.get(wrong[0]))[:80]
        raise CorruptDataError(f"{path / 'zarr.json'}: {wrong[0]} is {shown}", hint="it does not describe a cache")


def widths_of(attributes: Mapping[str, Any]) -> Mapping[str, int]:
    """Returns d_in by hook, from a cache's attributes."""
    widths: Mapping[str, int] = attributes.get("widths") or dict.fromkeys(attributes["hooks"], attributes["d_in"])
    return widths


def _are_widths(widths: Any, hooks: Any) -> bool:
    known = isinstance(widths, dict) and (not widths or sorted(widths) == sorted(hooks or ()))
    return known and all(type(d_in) is int and d_in >= 1 for d_in in widths.values())


def open_cache(path: Path | str) -> Cache:
    """Opens a finished cache; same as `Cache.open`.

    Example:
        >>> len(sp.open_cache("cache"))  # number of training rows
    """
    return Cache.open(path)
