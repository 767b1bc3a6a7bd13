"""Documents from the hub, local files or the toy corpus: text, or token ids, in a fixed order."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from huggingface_hub import constants

from saepipe.data import toy
from saepipe.data.cache.heldout_split import heldout_score
from saepipe.data.errors import ConfigError
from saepipe.harvest.chat import ChatText, Span, messages_of
from saepipe.harvest.config import DatasetConfig
from saepipe.harvest.hub import dataset_commit, downloaded_dataset, remote_error
from saepipe.harvest.hub_client import is_from_the_network
from saepipe.harvest.local_rows import csv_rows, json_rows, python_encoding, split_suffix

_READERS = {".txt": "text", ".jsonl": "json", ".parquet": "parquet"}
_LONGEST_NAME = 40
"""Characters of a column's name that a message shows; without a header it may be a whole text."""
_ROWS = (".csv", ".json", ".jsonl")
"""Formats that `local_rows` reads; plain UTF-8 lines of JSON are left to `datasets`, as ever."""


@dataclass(frozen=True)
class Document:
    """A document; `number` counts from 0 in the dataset's order, and either `text` or `ids` is set."""

    number: int
    text: str | None = None
    ids: np.ndarray | None = None
    """(tokens,) int64"""
    stored: tuple[Span, ...] | None = None
    """spans of the text whose tokens are stored; None: all"""

    @property
    def heldout_score(self) -> float:
        ids = self.ids if self.ids is not None else ()
        return heldout_score(self.text if self.text is not None else " ".join(map(str, ids)))

    @property
    def is_empty(self) -> bool:
        return not self.text and (self.ids is None or not len(self.ids))


def resolve_revision(config: DatasetConfig) -> str | None:
    """Returns the commit to which the revision of a hub dataset points now; None for local text and the toy corpus.

    Raises:
        ConfigError: if the source is neither a file nor a hub id.
        RemoteError: if the hub has no such dataset, or cannot be reached.
    """
    local = config.source == "toy" or config.suffix in (*_ROWS, *_READERS) or Path(config.source).exists()
    return None if local else dataset_commit(config.source, config.revision)


def check_source(config: DatasetConfig) -> None:
    """Raises ConfigError if the source is to be a file, and there is none."""
    if config.suffix in (*_ROWS, *_READERS):
        _existing_file(config)


def read_documents(
    config: DatasetConfig,
    revision: str | None = None,
    *,
    nulls: list[int] | None = None,
    chat: ChatText | None = None,
) -> Iterator[Document]:
    """Streams the dataset's documents; leaves out empty ones, but counts them in the numbering.

    Args:
        config: the source.
        revision: commit of a hub dataset to read, instead of the one to which the config's revision points now.
        nulls: receives the numbers of the documents without a value, which `nulls: skip` leaves out.
        chat: renders conversations; needed if the config has a `chat`.

    Raises:
        ConfigError: if a file, a split or a column does not exist, or a row holds something else than text or ids.
        RemoteError: if the dataset cannot be loaded from the hub.
    """
    if config.source == "toy":
        kinds = toy.KINDS if config.subset is None else (cast(toy.Kind, config.subset),)
        for number, generated in enumerate(toy.documents(seed=config.seed, kinds=kinds)):
            yield Document(number, text=generated.text)
        return
    for number, row in enumerate(read_rows(config, revision)):
        document = _document(config, number, row, chat)
        if document is None:
            if nulls is not None:
                nulls.append(number)
        elif not document.is_empty:
            yield document


def read_rows(config: DatasetConfig, revision: str | None = None, *, files: str = "") -> Iterator[dict[Any, Any]]:
    """Streams the rows of a file or a hub dataset, unchanged, by column name (or by index, without a header).

    Args:
        config: the source; its columns only determine whether rows are by name or by index.
        revision: commit of a hub dataset to read, instead of the one to which the config's revision points now.
        files: pattern of parquet files within a hub dataset whose loading script no longer runs.

    Raises:
        ConfigError: if a file or a split does not exist.
        RemoteError: if the dataset cannot be loaded from the hub.
    """
    plain = config.suffix == ".jsonl" and not config.compression and python_encoding(config.encoding) == "utf-8-sig"
    if config.suffix in _ROWS and not plain:
        return _read_rows(config)
    if saved := _saved_to_disk(config):
        return _read_saved(config, saved)
    return _stream(config, revision or config.revision, files)


def _read_rows(config: DatasetConfig) -> Iterator[dict[Any, Any]]:
    path = _existing_file(config)
    if config.suffix == ".csv":
        return csv_rows(path, config.encoding, header=not isinstance(config.columns[0], int))
    return json_rows(path, config.encoding)


def _saved_to_disk(config: DatasetConfig) -> str | None:
    """Returns the file that marks a folder as one of `save_to_disk`."""
    markers = ("dataset_dict.json", "state.json")
    return next((name for name in markers if (Path(config.source) / name).is_file()), None)


def _read_saved(config: DatasetConfig, marker: str) -> Iterator[dict[Any, Any]]:
    """Yields the rows of a folder that `save_to_disk` wrote, of one split or of several."""
    import datasets

    try:
        saved: Any = datasets.load_from_disk(config.source)
    except Exception as error:  # a damaged folder raises whatever its parts raise
        raise ConfigError(f"cannot read the dataset {config.source!r}: {_first_line(error)}") from error
    if marker == "dataset_dict.json":
        if config.split not in saved:
            raise ConfigError(f"{config.source} has no split {config.split!r}", hint=f"it has {', '.join(saved)}")
        saved = saved[config.split]
    yield from saved


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _stream(config: DatasetConfig, revision: str | None, files: str) -> Iterator[dict[Any, Any]]:
    import datasets

    options: dict[str, Any] = {"split": config.split, "streaming": True}
    if config.suffix in _READERS:
        options |= {"path": _READERS[config.suffix], "data_files": str(_existing_file(config)), "split": "train"}
        if config.suffix == ".txt":
            options |= {"sample_by": config.documents, "encoding": python_encoding(config.encoding)}
    elif constants.HF_HUB_OFFLINE and not Path(config.source).exists():
        folder = downloaded_dataset(config.source, revision)
        if files:
            options |= {"path": "parquet", "data_files": str(folder / files), "split": "train"}
        else:
            options |= {"path": str(folder), "name": config.subset}
    elif files:
        pattern = f"hf://datasets/{config.source}@{revision or 'main'}/{files}"
        options |= {"path": "parquet", "data_files": pattern, "split": "train"}
    else:
        options |= {"path": config.source, "name": config.subset, "revision": revision}
    try:
        yield from datasets.load_dataset(**options)
    except Exception as error:
        remote = isinstance(error, OSError) or is_from_the_network(error)
        if not remote and not isinstance(error, ValueError | datasets.exceptions.DatasetsError):
            raise
        if remote and not Path(config.source).exists():
            raise remote_error("dataset", config.source, config.revision, error) from error
        problem = f"cannot read the dataset {config.source!r}: {_first_line(error)}"
        encoding = isinstance(error, UnicodeError)
        hint = "set dataset.encoding" if encoding else "check dataset.split, dataset.subset, and the files"
        raise ConfigError(problem, hint=hint) from error


def _existing_file(config: DatasetConfig) -> Path:
    path = Path(config.source)
    if not path.is_file():
        raise ConfigError(f"there is no file {config.source!r}", hint="give an existing file, or a hub id")
    return path


def _document(config: DatasetConfig, number: int, row: dict[Any, Any], chat: ChatText | None) -> Document | None:
    """Returns the row's document; None if a value is null and nulls are skipped."""
    values = [value_of(config.source, row, column) for column in config.columns]
    if config.nulls == "skip" and any(value is None for value in values):
        return None
    if config.tokenised:
        return Document(number, ids=_ids(config, number, values[0]))
    if config.chat:
        return _conversation(config, number, values, chat)
    for column, value in zip(config.columns, values, strict=True):
        if not isinstance(value, str):
            hint = "choose another column, or set dataset.tokenised if it holds token ids"
            raise _refused(config, number, column, value, "text", hint)
    return Document(number, text=config.join.join(values))


def _conversation(config: DatasetConfig, number: int, values: list[Any], chat: ChatText | None) -> Document:
    if chat is None:
        raise ConfigError(
            f"{config.source}: conversations can be harvested, and not read here", hint="leave out `chat`"
        )
    messages = messages_of(values)
    if messages is None:
        wrong = next((index for index, value in enumerate(values) if not isinstance(value, str)), 0)
        wanted = "a list of messages with a role and a content" if len(values) == 1 else "text"
        raise _refused(config, number, config.columns[wrong], values[wrong], wanted, "see docs/harvest.md#chat")
    if not any(message["content"] for message in messages):
        return Document(number)
    try:
        text, stored = chat.render(messages)
    except ConfigError as error:
        raise ConfigError(f"document {number} of {config.source}: {error.message}", hint=error.hint) from error
    return Document(number, text=text, stored=stored)


def _ids(config: DatasetConfig, number: int, value: Any) -> np.ndarray:
    """Returns a row's token ids, (tokens,) int64; raises ConfigError for anything but whole numbers from 0."""
    ids = np.asarray(value) if isinstance(value, list | tuple | np.ndarray) else None
    if ids is not None and ids.ndim == 1 and not len(ids):
        return ids.astype(np.int64)
    if ids is None or ids.ndim != 1 or ids.dtype.kind not in "iu":
        others = [entry for entry in value if type(entry) is not int] if isinstance(value, list) else []
        what = f"a list with {reprlib.repr(others[0])}" if others else None
        hint = "choose another column, or write the ids as whole numbers"
        raise _refused(config, number, config.columns[0], value, "a list of token ids", hint, what)
    if ids.min() < 0 or ids.max() >= 2**31:
        wrong = int(ids[(ids < 0) | (ids >= 2**31)][0])
        hint = "leave out what is not a token, such as the -100 of masked labels"
        raise _refused(config, number, config.columns[0], wrong, "token ids", hint)
    return ids.astype(np.int64)


def _refused(
    config: DatasetConfig, number: int, column: str | int, value: Any, wanted: str, hint: str, what: str | None = None
) -> ConfigError:
    what = what or ("null" if value is None else f"{type(value).__name__} ({reprlib.repr(value)})")
    if value is None:
        hint = "`dataset.nulls: skip` leaves such rows out and counts them"
    return ConfigError(f"document {number} of {config.source}: column {column!r} holds {what}, not {wanted}", hint=hint)


def value_of(source: str, row: dict[Any, Any], column: str | int) -> Any:
    """Returns a row's value in a column; raises ConfigError with the nearest column name if there is none."""
    if column in row:
        return row[column]
    names = [str(name) for name in row]
    near = difflib.get_close_matches(str(column), names, n=1, cutoff=0.5)
    listed = ", ".join(name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..." for name in names)
    advice = f"did you mean {near[0]!r}?" if near else f"it has {listed}"
    raise ConfigError(f"{source} has no column {column!r}; {advice}", hint=_header_hint(source, column, names))


def _header_hint(source: str, column: str | int, names: list[str]) -> str | None:
    """Returns how to read a CSV file whose first line is text; None if it looks like names of columns."""
    prose = [index for index, name in enumerate(names) if " " in name.strip()]
    if split_suffix(source)[0] != ".csv" or isinstance(column, int) or not prose:
        return None
    return f"if its first line is no header, give columns by number, counted from 0: columns: {prose}"
