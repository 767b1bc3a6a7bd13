"""Settings of the language model; without the libraries that run it, so that a config is checked before they load."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from saepipe.data.config.base import Config
from saepipe.data.config.bounds import Device, PathText
from saepipe.data.toy import MODEL_DIR

Dtype = Literal["float32", "bfloat16", "float16"]
Attention = Literal["eager", "sdpa", "flex_attention", "flash_attention_2", "auto"]


class ModelConfig(Config):
    """The language model, and how to run it."""

    model: PathText = Field("toy", description="hub id, checkpoint folder, or `toy`, the embedded model")
    gguf_file: PathText | None = Field(
        None, description="GGUF file in that folder or repository; holds weights, config and tokenizer"
    )
    revision: str | None = Field(None, description="branch, tag or commit on the hub")
    dtype: Dtype = "bfloat16"
    device: Device = Field("auto", description="`auto` is cuda if available, otherwise cpu")
    attention: Attention = Field(
        "eager",
        description="any other must agree with eager on the first batch; `auto` is a harvest's fastest that does",
    )

    @property
    def path(self) -> str:
        return str(MODEL_DIR) if self.model == "toy" else self.model

    @model_serializer(mode="wrap")
    def _without_later_keys(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out `gguf_file` where there is none, so that settings equal those of earlier versions."""
        plain: dict[str, Any] = serialise(self)
        return {key: value for key, value in plain.items() if (key, value) != ("gguf_file", None)}
