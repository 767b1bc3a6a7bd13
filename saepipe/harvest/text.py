"""Documents from the hub, local files or the toy corpus: text, or token ids, in a fixed order."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import constants

from saepipe.data import toy
from saepipe.data.cache.heldout_split import heldout_score
from saepipe.data.errors import ConfigError
from saepipe.harvest.config import DatasetConfig
from saepipe.harvest.hub import dataset_commit, downloaded_dataset, remote_error
from saepipe.harvest.hub_client import is_from_the_network

_READERS = {".txt": "text", ".jsonl": "json", ".parquet": "parquet"}


@dataclass(frozen=True)
class Document:
    """A document; `number` counts from 0 in the dataset's order, and either `text` or `ids` is set."""

    number: int
    text: str | None = None
    ids: tuple[int, ...] | None = None

    @property
    def heldout_score(self) -> float:
        return heldout_score(self.text if self.text is not None else " ".join(map(str, self.ids or ())))


def resolve_revision(config: DatasetConfig) -> str | None:
    """Returns the commit to which the revision of a hub dataset points now; None for local text and the toy corpus.

    Raises:
        ConfigError: if the source is neither a file nor a hub id.
        RemoteError: if the hub has no such dataset, or cannot be reached.
    """
    local = config.source == "toy" or config.suffix in (".csv", *_READERS) or Path(config.source).exists()
    return None if local else dataset_commit(config.source, config.revision)


def read_documents(config: DatasetConfig, revision: str | None = None) -> Iterator[Document]:
    """Streams the dataset's documents; leaves out empty ones, but counts them in the numbering.

    Args:
        config: the source.
        revision: commit of a hub dataset to read, instead of the one to which the config's revision points now.

    Raises:
        ConfigError: if a file, a split or a column does not exist.
        RemoteError: if the dataset cannot be loaded from the hub.
    """
    if config.source == "toy":
        for number, generated in enumerate(toy.documents(seed=config.seed)):
            yield Document(number, text=generated.text)
        return
    for number, row in enumerate(read_rows(config, revision)):
        document = _document(config, number, row)
        if document.text or document.ids:
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
    if config.suffix == ".csv":
        return _read_csv(config)
    return _stream(config, revision or config.revision, files)


def _read_csv(config: DatasetConfig) -> Iterator[dict[Any, str]]:
    """Yields rows by column name, or by index without a header. All values stay text, including `1` and `NA`."""
    csv.field_size_limit(2**31 - 1)  # a document may be a whole book
    no_header = isinstance(config.columns[0], int)
    with _existing_file(config).open(newline="", encoding="utf-8") as file:
        if no_header:
            yield from (dict(enumerate(row)) for row in csv.reader(file))
        else:
            yield from csv.DictReader(file)


def _stream(config: DatasetConfig, revision: str | None, files: str) -> Iterator[dict[Any, Any]]:
    options: dict[str, Any] = {"split": config.split, "streaming": True}
    if config.suffix in _READERS:
        options |= {"path": _READERS[config.suffix], "data_files": str(_existing_file(config)), "split": "train"}
        options |= {"sample_by": config.documents} if config.suffix == ".txt" else {}
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
        problem = f"cannot read the dataset {config.source!r}: {str(error).splitlines()[0]}"
        raise ConfigError(problem, hint="check dataset.split, dataset.subset, and the files") from error


def _existing_file(config: DatasetConfig) -> Path:
    path = Path(config.source)
    if not path.is_file():
        raise ConfigError(f"there is no file {config.source!r}", hint="give an existing file, or a hub id")
    return path


def _document(config: DatasetConfig, number: int, row: dict[Any, Any]) -> Document:
    values = [value_of(config.source, row, column) for column in config.columns]
    if config.tokenised:
        return Document(number, ids=tuple(int(token) for token in values[0]))
    for column, value in zip(config.columns, values, strict=True):
        if not isinstance(value, str):
            raise ConfigError(
                f"document {number} of {config.source}: column {column!r} holds {type(value).__name__}, not text",
                hint="choose another column, or set dataset.tokenised if it holds token ids",
            )
    return Document(number, text=config.join.join(values))


def value_of(source: str, row: dict[Any, Any], column: str | int) -> Any:
    """Returns a row's value in a column; raises ConfigError with the nearest column name if there is none."""
    if column in row:
        return row[column]
    near = difflib.get_close_matches(str(column), map(str, row), n=1, cutoff=0.5)
    advice = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(map(str, row))}"
    raise ConfigError(f"{source} has no column {column!r}; {advice}")
