"""Where labelled text comes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from saepipe.data.config.base import Config, Count
from saepipe.harvest.config import Columns, DatasetConfig

Part = Literal["train", "test"]


def _as_names(value: Any) -> Any:
    return tuple(str(item) for item in value) if isinstance(value, list | tuple) else value


Classes = Annotated[tuple[str, ...], BeforeValidator(_as_names, json_schema_input_type=tuple[str | int, ...])]


class LabelledConfig(Config):
    """A data set whose texts belong to classes. Labels are compared as text: 1, "1" and `1` of a CSV are one class."""

    name: str
    """As results name it."""
    source: str = "toy"
    """hub id, a folder, a .csv/.jsonl/.parquet file, or `toy`"""
    subset: str | None = None
    """of a hub's data set; of the toy the kind of document, `biography` or `review`"""
    revision: str | None = None
    split: str = "train"
    """where training texts are"""
    test: str | None = None
    """where test texts are: another split, or another file; null: in the same rows, told apart by a hash of the text"""
    test_share: float = Field(default=0.25, gt=0, lt=1)
    """of the rows, where `test` is null"""
    text: Columns = Field(default=("text",), min_length=1)
    """columns, joined by `join`; by name, or by index in a CSV file without a header"""
    join: str = "\n"
    label: str | int = "label"
    attribute: str | int | None = None
    """a second label: each class is drawn with equal numbers of its values"""
    classes: Classes | None = None
    """those used, in this order; null: all, sorted"""
    take: Literal["sample", "first"] = "sample"
    """sample: from all rows of a class; first: from the beginning of a long stream, shuffled, the test texts last"""
    min_chars: Count = Field(default=0, ge=0)
    """shorter texts are left out"""
    skip_chars: Count = Field(default=0, ge=0)
    """left out at a text's beginning (a licence, for code)"""
    files: str = ""
    """pattern of parquet files within a hub's data set, where its loading script is no longer run"""
    endings: Mapping[str, str] = {}
    """class by the ending of the label column, a file's name"""
    pairs: Mapping[str, str] = {}
    """subset by language, of parallel text: the label is the language, the text is `row["translation"][language]`"""
    seed: int = 2**20
    """of the toy's text: none that anything was trained on"""

    @model_validator(mode="after")
    def _check(self) -> LabelledConfig:
        if self.source == "toy" and self.subset not in ("biography", "review"):
            raise ValueError(f"the toy's labelled documents are biography and review, not {self.subset!r}")
        if self.take == "first" and (self.test or not self.classes):
            raise ValueError("take: first needs classes, and takes train and test texts from one split")
        self.table("train")
        return self

    @property
    def is_file(self) -> bool:
        return Path(self.source).suffix.lower() in (".csv", ".jsonl", ".parquet")

    def table(self, part: Part, subset: str | None = None) -> DatasetConfig:
        """The rows of a part, for `saepipe.harvest.text`."""
        other = self.test if part == "test" else None
        return DatasetConfig(
            source=other if other and self.is_file else self.source,
            subset=subset or self.subset,
            split=other if other and not self.is_file else self.split,
            revision=self.revision,
            columns=self.text,
            join=self.join,
        )
