"""Rows of local CSV and JSON files, compressed or not, in any encoding, in the order of the file."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from saepipe.data.errors import ConfigError

COMPRESSIONS = (".gz", ".zst")


def split_suffix(name: str) -> tuple[str, str]:
    """Returns the ending of a file's format and that of its compression: `a.jsonl.gz` -> (".jsonl", ".gz")."""
    path = Path(name.lower())
    if path.suffix in COMPRESSIONS:
        return Path(path.stem).suffix, path.suffix
    return path.suffix, ""


def python_encoding(encoding: str) -> str:
    """Returns the codec that reads `encoding` and skips its byte-order mark."""
    return "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding


def csv_rows(path: Path, encoding: str, *, header: bool) -> Iterator[dict[Any, Any]]:
    """Yields rows by column name, or by index without a header. All values stay text, including `1` and `NA`.

    Raises:
        ConfigError: if the file cannot be read as CSV in that encoding.
    """
    csv.field_size_limit(2**31 - 1)  # a document may be a whole book
    with _opened(path, encoding) as file:
        if header:
            yield from csv.DictReader(file)
        else:
            yield from (dict(enumerate(row)) for row in csv.reader(file))


def json_rows(path: Path, encoding: str) -> Iterator[dict[Any, Any]]:
    """Yields the objects of a file with one per line, or of an array; texts in an array are rows with a `text`.

    Raises:
        ConfigError: if the file is neither, or cannot be read in that encoding.
    """
    with _opened(path, encoding) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            is_array = line.lstrip().startswith("[")
            for value in json.loads(line + file.read()) if is_array else [json.loads(line)]:
                row = {"text": value} if isinstance(value, str) else value
                if not isinstance(row, dict):
                    raise ConfigError(f"{path}: line {number} holds {type(value).__name__}, not an object")
                yield row


@contextmanager
def _opened(path: Path, encoding: str) -> Iterator[TextIO]:
    """Yields the file's text; turns what goes wrong while it is read into a ConfigError."""
    try:
        with _decompressed(path) as raw, _decoded(raw, encoding) as file:
            yield file
    except ConfigError:
        raise
    except UnicodeError as error:
        raise ConfigError(
            f"{path} is not text in {encoding}: {error}", hint="set dataset.encoding, e.g. to latin-1 or utf-16"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}", hint="one object per line, or one array") from error
    except RecursionError as error:
        raise ConfigError(f"{path} nests too deeply for JSON") from error
    except (csv.Error, EOFError, OSError) as error:
        raise ConfigError(f"cannot read {path}: {error}", hint="is the file whole?") from error


def _decompressed(path: Path) -> BinaryIO:
    compression = split_suffix(path.name)[1]
    if compression == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if compression == ".zst":
        import pyarrow as pa  # type: ignore[import-untyped]  # not at the top: nothing else here needs it

        return cast(BinaryIO, pa.CompressedInputStream(pa.OSFile(str(path), "rb"), "zstd"))
    return path.open("rb")


def _decoded(raw: BinaryIO, encoding: str) -> TextIO:
    return io.TextIOWrapper(io.BufferedReader(cast(Any, raw)), encoding=python_encoding(encoding), newline="")
