"""Documents from a hub, from local files, or from the toy: text, or ids already tokenised, in a fixed order."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from saepipe.data import toy
from saepipe.data.cache.tokens import heldout_score
from saepipe.data.errors import ConfigError
from saepipe.harvest.config import DatasetConfig
from saepipe.harvest.hub import dataset_commit, remote_error

_READERS = {".txt": "text", ".jsonl": "json", ".parquet": "parquet"}


@dataclass(frozen=True)
class Document:
    """`number` counts from 0 in the dataset's order; either `text` or `ids` is set."""

    number: int
    text: str | None = None
    ids: tuple[int, ...] | None = None

    @property
    def heldout_score(self) -> float:
        return heldout_score(self.text if self.text is not None else " ".join(map(str, self.ids or ())))


def resolve_revision(config: DatasetConfig) -> str | None:
    """The commit that the revision of a hub's dataset stands for now; None for local text and the toy.

    Raises:
        ConfigError: if the source is no file and no hub id.
        RemoteError: if the hub does not know it, or cannot be reached.
    """
    local = config.source == "toy" or config.suffix in (".csv", *_READERS) or Path(config.source).exists()
    return None if local else dataset_commit(config.source, config.revision)


def read_documents(config: DatasetConfig, revision: str | None = None) -> Iterator[Document]:
    """The dataset's documents, streamed; empty ones are left out but keep their number.

    Args:
        config: where they are.
        revision: the commit to read of a hub's dataset, instead of what the config's revision stands for now.

    Raises:
        ConfigError: if a file, a split or a column is not there.
        RemoteError: if a hub does not give the dataset.
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
    """The rows of files or of a hub's dataset as they stand, streamed, by column name (or index, without a header).

    Args:
        config: where they are; of its columns only the kind (names or indices) counts.
        revision: the commit to read of a hub's dataset, instead of what the config's revision stands for now.
        files: a pattern of parquet files within a hub's dataset, where its loading script is no longer run.

    Raises:
        ConfigError: if a file or a split is not there.
        RemoteError: if a hub does not give the dataset.
    """
    if config.suffix == ".csv":
        return _read_csv(config)
    return _stream(config, revision or config.revision, files)


def _read_csv(config: DatasetConfig) -> Iterator[dict[Any, str]]:
    """Rows by column name, or by index without a header. All is text: `1` is no number, `NA` is not missing."""
    csv.field_size_limit(2**31 - 1)  # a document may be a whole book
    headless = isinstance(config.columns[0], int)
    with _existing(config).open(newline="", encoding="utf-8") as file:
        if headless:
            yield from (dict(enumerate(row)) for row in csv.reader(file))
        else:
            yield from csv.DictReader(file)


def _stream(config: DatasetConfig, revision: str | None, files: str) -> Iterator[dict[Any, Any]]:
    options: dict[str, Any] = {"split": config.split, "streaming": True}
    if config.suffix in _READERS:
        options |= {"path": _READERS[config.suffix], "data_files": str(_existing(config)), "split": "train"}
        options |= {"sample_by": config.documents} if config.suffix == ".txt" else {}
    elif files:
        where = f"hf://datasets/{config.source}@{revision or 'main'}/{files}"
        options |= {"path": "parquet", "data_files": where, "split": "train"}
    else:
        options |= {"path": config.source, "name": config.subset, "revision": revision}
    try:
        yield from datasets.load_dataset(**options)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        refused = isinstance(error, OSError) and not Path(config.source).exists()
        if not refused:
            problem = f"cannot read the dataset {config.source!r}: {str(error).splitlines()[0]}"
            raise ConfigError(problem, hint="check dataset.split and dataset.subset, and the files") from error
        raise remote_error("dataset", config.source, config.revision, error) from error


def _existing(config: DatasetConfig) -> Path:
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
                hint="choose another column, or set dataset.tokenised for token ids",
            )
    return Document(number, text=config.join.join(values))


def value_of(source: str, row: dict[Any, Any], column: str | int) -> Any:
    """A row's value in a column; raises ConfigError with the nearest right name."""
    if column in row:
        return row[column]
    near = difflib.get_close_matches(str(column), map(str, row), n=1, cutoff=0.5)
    advice = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(map(str, row))}"
    raise ConfigError(f"{source} has no column {column!r}; {advice}")
