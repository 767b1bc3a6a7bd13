"""Loading of models that are shared out among devices, or whose weights are quantised, through transformers."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from saepipe.data.errors import ConfigError, MachineError
from saepipe.harvest.model_config import ModelConfig


def loading_options(config: ModelConfig, device: torch.device) -> dict[str, Any]:
    """Returns the arguments of `from_pretrained` for a device map and for quantised weights; none for other models.

    `8bit` is LLM.int8 (arXiv:2208.07339) without its mixed precision: each token and each row of a matrix is rounded by
    its own largest entry. With the usual `llm_int8_threshold` of 6, columns with a large entry anywhere in the batch
    are left out of the rounding, so that a token's activations depend on later tokens and on the other contexts of its
    batch: in SmolLM2-135M by 5 % of their norm, as much as the rounding costs
    (findings/int8-outliers-of-other-rows.sh). `4bit` is NF4 (arXiv:2305.14314), computed in the model's dtype.

    Raises:
        MachineError: if a package is missing.
    """
    if config.device_map is None and config.quantization is None:
        return {}
    _require("accelerate", config)
    options: dict[str, Any] = {"device_map": config.device_map or {"": str(device)}}
    if config.quantization:
        _require("bitsandbytes", config)
        options["quantization_config"] = _quantization_config(config)
    return options


def check_placed(config: ModelConfig, device: torch.device) -> None:
    """Raises ConfigError if the first weights of a loaded model are on no device."""
    if device.type == "meta":
        raise ConfigError(
            f"device_map leaves the embeddings of {config.model!r} outside of every device",
            hint="give the embeddings (model.embed_tokens in most models) a device of their own in device_map",
        )


def _quantization_config(config: ModelConfig) -> Any:
    from transformers import BitsAndBytesConfig

    make: Any = BitsAndBytesConfig
    if config.quantization == "8bit":
        return make(load_in_8bit=True, llm_int8_threshold=0.0)
    return make(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, config.dtype))


def _require(package: str, config: ModelConfig) -> None:
    if find_spec(package) is None:
        key = f"quantization: {config.quantization}" if config.quantization else "device_map"
        problem = f"model.{key} needs the package {package}, which is not installed"
        raise MachineError(problem, hint="pip install 'saepipe[large]'")
