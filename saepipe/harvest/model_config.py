"""Settings of the language model; without the libraries that run it, so that a config is checked before they load."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from saepipe.data.config.base import Config
from saepipe.data.config.bounds import Device, PathText
from saepipe.data.toy import MODEL_DIR

Dtype = Literal["float32", "bfloat16", "float16"]
Attention = Literal["eager", "sdpa", "flex_attention", "flash_attention_2"]


class ModelConfig(Config):
    """The language model, and how to run it."""

    model: PathText = Field("toy", description="hub id, checkpoint folder, or `toy`, the embedded model")
    revision: str | None = Field(None, description="branch, tag or commit on the hub")
    dtype: Dtype = "bfloat16"
    device: Device = Field("auto", description="`auto` is cuda if available, otherwise cpu")
    attention: Attention = Field("eager", description="any other must agree with eager on the first batch")

    @property
    def path(self) -> str:
        return str(MODEL_DIR) if self.model == "toy" else self.model
