"""Settings of `saepipe harvest`."""

from __future__ import annotations

import codecs
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from saepipe.data.cache.codecs import SNR_FLOOR, Profile
from saepipe.data.config.base import Config, Count
from saepipe.data.config.bounds import PathText, Seed
from saepipe.data.config.rate import Rate
from saepipe.data.toy import KINDS
from saepipe.harvest.chat import Turns
from saepipe.harvest.hook_point import HookPoint
from saepipe.harvest.local_rows import split_suffix
from saepipe.harvest.model_config import ModelConfig

AUTO = "auto"
_NEVER = object()
_MOST_CONTEXTS = 2**16


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str | int) else value


def _check_batch_size(value: Any) -> Any:
    """Raises one ValueError, where the two types of the union would each report a mistake."""
    number = int(value) if isinstance(value, float) and value.is_integer() else value
    if number != "auto" and not (str(number).isdecimal() and 0 < int(number) <= _MOST_CONTEXTS):
        raise ValueError(f"must be `auto`, or a whole number from 1 to {_MOST_CONTEXTS:,}")
    return number


Columns = Annotated[
    tuple[str | int, ...], BeforeValidator(_as_tuple, json_schema_input_type=str | int | tuple[str | int, ...])
]
BatchSize = Annotated[int | Literal["auto"], BeforeValidator(_check_batch_size)]
Hooks = Annotated[tuple[str, ...], BeforeValidator(_as_tuple, json_schema_input_type=str | tuple[str, ...])]


class DatasetConfig(Config):
    """The source of the text."""

    source: PathText = Field(
        "toy",
        description="hub id, a folder, a .txt, .parquet, .jsonl, .json or .csv file (or .jsonl.gz, ...), or `toy`",
    )
    subset: str | None = Field(None, description="configuration name of a hub dataset, or one kind of the toy text")
    split: str = "train"
    revision: str | None = None
    columns: Columns = Field(
        ("text",), description="joined by `join`; names, or indices if a file has no header", min_length=1
    )
    join: str = "\n"
    tokenised: bool = Field(False, description="the column holds token ids, not text")
    documents: Literal["paragraph", "line", "document"] = Field("paragraph", description="unit of a .txt file")
    encoding: str = Field("utf-8", description="of a .txt, .jsonl, .json or .csv file; a byte-order mark is skipped")
    nulls: Literal["refuse", "skip"] = Field("refuse", description="`skip` leaves out and counts rows without a value")
    chat: Turns | None = Field(
        None, description="the column holds messages, or two a prompt and a response; turns whose tokens are stored"
    )
    seed: Seed = Field(0, description="seed of the toy text")

    @property
    def suffix(self) -> str:
        """The ending of the file's format, without that of its compression."""
        return split_suffix(self.source)[0]

    @property
    def compression(self) -> str:
        return split_suffix(self.source)[1]

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, encoding: str) -> str:
        try:
            known = codecs.lookup(encoding)._is_text_encoding
        except (LookupError, ValueError):
            known = False
        if not known:
            raise ValueError("there is no such encoding; e.g. utf-8, latin-1 or utf-16")
        return encoding

    @model_serializer(mode="wrap")
    def _without_later_keys(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out keys at their default that earlier versions did not have, so that equal settings stay equal."""
        plain: dict[str, Any] = serialise(self)
        defaults = {"encoding": "utf-8", "nulls": "refuse", "chat": None}
        return {key: value for key, value in plain.items() if value != defaults.get(key, _NEVER)}

    @model_validator(mode="after")
    def _check(self) -> DatasetConfig:
        if self.tokenised and len(self.columns) > 1:
            raise ValueError(f"token ids need one column, not {len(self.columns)}: {list(self.columns)}")
        if any(isinstance(column, int) for column in self.columns) and self.suffix != ".csv":
            raise ValueError(f"columns by index are for .csv files without a header; {self.source!r} needs names")
        if self.chat and (self.tokenised or self.source == "toy" or len(self.columns) > 2):
            raise ValueError("chat needs one column of messages, or a prompt's and a response's")
        if self.source == "toy" and self.subset not in (None, *KINDS):
            raise ValueError(f"the toy text has no kind {self.subset!r}; subset may be {', '.join(KINDS)}")
        return self


class HarvestConfig(Config):
    """A single pass of a language model over text, stored as a cache."""

    model: ModelConfig = ModelConfig()
    dataset: DatasetConfig = DatasetConfig()
    hooks: Hooks = Field(("blocks.2.hook_resid_post",), min_length=1, description="sites of layers: docs/sites.md")
    num_tokens: Count = Field(10_000_000, gt=0, description="training rows to store; special tokens do not count")
    heldout_tokens: Count = Field(500_000, ge=0, description="maximum positions of held-out contexts")
    heldout_share: float = Field(0.05, ge=0, lt=1, description="share of documents, chosen by a hash of their text")
    fill_heldout: bool = Field(
        False, description="read on after the last training row until `heldout_tokens` positions are held out"
    )
    context_size: int = Field(128, ge=2, le=2**20)
    batch_size: BatchSize = Field(32, description="contexts per forward pass; `auto` is by device and free memory")
    bos: Literal["documents", "windows", "none"] = Field(
        "documents", description="BOS starts every window; `documents`: it also separates documents; `none`: no BOS"
    )
    bos_token: str = Field(
        AUTO, min_length=1, description="token used as BOS; `auto`: the tokenizer's BOS, or EOS if it has none"
    )
    drop_norm_above: float | None = Field(
        None, gt=1, description="leave out rows whose norm exceeds this many medians (of the first batch)"
    )
    codec: Profile = Field("lossless", description="encoding of training rows; held-out rows are always lossless")
    int8_snr_floor: float = Field(
        SNR_FLOOR, description="dB that `int8` must reach without the largest channels, or the harvest fails"
    )
    shard_rows: Count = Field(65_536, gt=0, le=2**26)
    chunk_rows: int = Field(1024, gt=0, le=2**20)
    pool_shards: int = Field(4, gt=0, le=2**12, description="shards that are shuffled together; the unit of resuming")
    encoders: int = Field(4, gt=0, le=2**10, description="encoder threads")
    seed: Seed = Field(0, description="seed of the shuffle")
    cost: Rate | None = Field(
        None, exclude=True, description="price of a rank's time, for `--dry-run`; no run or cache stores it"
    )

    @field_validator("hooks")
    @classmethod
    def _check_hooks(cls, hooks: tuple[str, ...]) -> tuple[str, ...]:
        for hook in hooks:
            HookPoint.parse(hook)
        if len(set(hooks)) != len(hooks):
            raise ValueError("a hook is listed twice")
        return hooks

    @model_validator(mode="after")
    def _check(self) -> HarvestConfig:
        if self.shard_rows % self.chunk_rows:
            raise ValueError(f"shard_rows {self.shard_rows} is not a multiple of chunk_rows {self.chunk_rows}")
        if self.bos == "none" and self.bos_token != AUTO:
            raise ValueError(f"bos_token {self.bos_token!r} is never used with bos: none; use documents or windows")
        return self

    @model_serializer(mode="wrap")
    def _without_later_keys(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out keys at their default that earlier versions did not have, so that equal settings stay equal."""
        plain: dict[str, Any] = serialise(self)
        defaults = {"bos_token": AUTO, "fill_heldout": False}
        return {key: value for key, value in plain.items() if value != defaults.get(key, _NEVER)}

    @property
    def hook_points(self) -> list[HookPoint]:
        return [HookPoint.parse(hook) for hook in self.hooks]

    @property
    def contexts_per_pass(self) -> int:
        """The batch size, once it is settled."""
        assert self.batch_size != "auto", "settled by saepipe.harvest.auto_settings"
        return self.batch_size

    def adopting(self, made_with: HarvestConfig) -> HarvestConfig:
        """Replaces `auto` by the settings of the cache that is resumed."""
        attention = made_with.model.attention if self.model.attention == "auto" else self.model.attention
        batch_size = made_with.batch_size if self.batch_size == "auto" else self.batch_size
        model = self.model.model_copy(update={"attention": attention})
        return self.model_copy(update={"model": model, "batch_size": batch_size})

    @property
    def pool_rows(self) -> int:
        return self.pool_shards * self.shard_rows

    def identity(self) -> dict[str, Any]:
        """The settings that determine the cache's bytes: all but those of speed, length and acceptance."""
        plain = self.to_dict()
        for key in ("num_tokens", "heldout_tokens", "encoders", "int8_snr_floor"):
            del plain[key]
        return plain
