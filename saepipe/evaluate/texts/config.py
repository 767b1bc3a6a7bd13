"""Settings of labelled datasets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from saepipe.data.config.base import Config, Count
from saepipe.data.config.bounds import PathText, Seed
from saepipe.harvest.config import Columns, DatasetConfig
from saepipe.harvest.local_rows import split_suffix

Part = Literal["train", "test"]


def _as_names(value: Any) -> Any:
    return tuple(str(item) for item in value) if isinstance(value, list | tuple) else value


ClassNames = Annotated[tuple[str, ...], BeforeValidator(_as_names, json_schema_input_type=tuple[str | int, ...])]


class LabelledDatasetConfig(Config):
    """A dataset whose texts belong to classes. Labels are compared as text: 1, "1" and `1` in a CSV are one class."""

    name: str
    """Name in results."""
    source: PathText = "toy"
    """Hub id, folder, .csv/.jsonl/.parquet file, or `toy`."""
    subset: str | None = None
    """Configuration name of a hub dataset; for the toy the kind of document, `biography` or `review`."""
    revision: str | None = None
    split: str = "train"
    """Split with the training texts."""
    test: PathText | None = None
    """Split or file with the test texts; null: taken from the training rows by a hash of their text."""
    test_share: float = Field(default=0.25, gt=0, lt=1)
    """Share of the rows to test on if `test` is null."""
    text: Columns = Field(default=("text",), min_length=1)
    """Columns, joined by `join`; by name, or by index in a CSV file without a header."""
    join: str = "\n"
    label: str | int = "label"
    attribute: str | int | None = None
    """Column with a second label: texts of a class are sampled evenly over its values."""
    classes: ClassNames | None = None
    """Classes to use, in this order; null: all, sorted."""
    take: Literal["sample", "first"] = "sample"
    """sample: from all rows of a class; first: from the start of a long stream, shuffled, with the test texts last."""
    min_chars: Count = Field(default=0, ge=0)
    """Only texts with more characters are used."""
    skip_chars: Count = Field(default=0, ge=0)
    """Characters to drop at the start of each text (a licence, in code)."""
    files: str = ""
    """Pattern of parquet files in a hub dataset whose loading script can no longer be run."""
    endings: Mapping[str, str] = {}
    """Class by ending of the label column, which holds file names."""
    pairs: Mapping[str, str] = {}
    """Subset by language, for parallel text: the label is the language, the text `row["translation"][language]`."""
    seed: Seed = 2**20
    """Seed of the toy's text; nothing was trained on text of the default seed."""

    @model_validator(mode="after")
    def _check(self) -> LabelledDatasetConfig:
        if self.source == "toy" and self.subset not in ("biography", "review"):
            raise ValueError(f"the toy's labelled documents are biography and review, not {self.subset!r}")
        if self.take == "first" and (self.test or not self.classes):
            raise ValueError("take: first needs classes, and takes training and test texts from one split")
        self.dataset("train")
        return self

    @property
    def is_file(self) -> bool:
        return split_suffix(self.source)[0] in (".csv", ".json", ".jsonl", ".parquet")

    def dataset(self, part: Part, subset: str | None = None) -> DatasetConfig:
        """Returns the settings with which `saepipe.harvest.text` reads the rows of a part."""
        test = self.test if part == "test" else None
        return DatasetConfig(
            source=test if test and self.is_file else self.source,
            subset=subset or self.subset,
            split=test if test and not self.is_file else self.split,
            revision=self.revision,
            columns=self.text,
            join=self.join,
        )
