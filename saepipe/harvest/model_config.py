"""Settings of the language model; without the libraries that run it, so that a config is checked before they load."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from saepipe.data.config.base import Config
from saepipe.data.config.bounds import Device, PathText
from saepipe.data.toy import MODEL_DIR

Dtype = Literal["float32", "bfloat16", "float16"]
Attention = Literal["eager", "sdpa", "flex_attention", "flash_attention_2", "auto"]
Placement = Literal["auto", "balanced", "balanced_low_0", "sequential"]
"""Ways in which transformers shares out a model among the devices of a machine."""
Quantization = Literal["8bit", "4bit"]

_LATER_KEYS = {"gguf_file": None, "device_map": None, "quantization": None, "trust_remote_code": False}
"""Keys that earlier versions did not have, with their defaults."""
_PLACE = re.compile(r"cpu|disk|(cuda|xpu)(:[0-9]{1,3})?|[0-9]{1,3}")


def _check_place(place: str | int) -> str | int:
    if not _PLACE.fullmatch(str(place)):
        raise ValueError(f"{place!r} is no place for a module; e.g. 0 or cuda:0 for the first GPU, cpu, disk")
    return place


DeviceMap = Placement | dict[str, Annotated[str | int, AfterValidator(_check_place)]]


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
    device_map: DeviceMap | None = Field(
        None, description="instead of `device`: `auto` shares a model out among GPUs; or a device for each module"
    )
    quantization: Quantization | None = Field(None, description="of the weights as they are loaded, by bitsandbytes")
    trust_remote_code: bool = Field(False, description="run code that comes with the model, with your rights")

    @property
    def path(self) -> str:
        return str(MODEL_DIR) if self.model == "toy" else self.model

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        if self.device_map is not None and self.device != "auto":
            raise ValueError(f"device {self.device} and device_map exclude each other; leave out one of them")
        if self.quantization and self.gguf_file:
            raise ValueError("the weights of a GGUF file are expanded as they are loaded; leave out quantization")
        return self

    @model_serializer(mode="wrap")
    def _without_later_keys(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out keys at their default that earlier versions did not have, so that equal settings stay equal."""
        plain: dict[str, Any] = serialise(self)
        return {key: value for key, value in plain.items() if key not in _LATER_KEYS or value != _LATER_KEYS[key]}
