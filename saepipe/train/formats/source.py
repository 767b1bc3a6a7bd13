"""An SAE read from another library's folder, in our convention, and the checks that all readers share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.train.sae.base import Architecture, Params
from saepipe.train.sae.transcoder import is_transcoder


@dataclass(frozen=True)
class Source:
    """An SAE from another library, and what its folder says about it; None if it does not say."""

    sae: Architecture
    params: Params
    """float32, on raw activations, in the convention of `saepipe.train.sae.base`"""
    files: tuple[Path, ...]
    """files that were read"""
    config: Mapping[str, Any]
    """the folder's own config, as plain data"""
    name: str
    """name for the variant"""
    model: str | None = None
    hook: str | None = None
    layer: int | None = None
    """decoder layer whose output the SAE reads, if no hook is named"""
    seed: int | None = None
    target: str | None = None
    """hook that a transcoder reconstructs"""

    @property
    def d_in(self) -> int:
        return len(self.params["W_enc"])

    @property
    def d_out(self) -> int:
        return len(self.params["b_dec"])

    @property
    def is_transcoder(self) -> bool:
        return is_transcoder(self.params)


def short_name(model: str) -> str:
    """Returns the last part of a model's name, in lower case: `gemma-2-2b` of `google/gemma-2-2b`."""
    return model.rstrip("/").rpartition("/")[2].lower()


def require_file(path: Path) -> Path:
    """Returns the path of a file that an SAE needs; raises ConfigError if it does not exist."""
    if not path.is_file():
        hint = "check the path and --from; one SAE at a time"
        raise ConfigError(f"{path.parent} holds no SAE: {path.name} is missing", hint=hint)
    return path


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; raises ConfigError if the file is missing, CorruptDataError if it holds something else."""
    text = require_file(path).read_text(errors="replace")
    try:
        value = json.loads(text)
    except ValueError as error:
        raise CorruptDataError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise CorruptDataError(f"{path} holds a {type(value).__name__}, not an object")
    return value


def check_tensors(
    path: Path, kind: str, tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], optional: str = ""
) -> None:
    """Raises ConfigError if the tensors in `path` do not have the names, then the shapes, of a `kind`."""
    missing, unknown = expected.keys() - tensors.keys() - {optional}, tensors.keys() - expected.keys()
    if missing or unknown:
        problems = [f"lacks {', '.join(sorted(missing))}"] if missing else []
        problems += [f"has unexpected tensors {', '.join(sorted(unknown))}"] if unknown else []
        raise ConfigError(
            f"{path} is not a {kind}: it {' and '.join(problems)}", hint=f"a {kind} has {', '.join(sorted(expected))}"
        )
    for key, tensor in tensors.items():
        if tuple(tensor.shape) != expected[key]:
            raise ConfigError(f"{path}: {key} of a {kind} has shape {tuple(tensor.shape)}, not {expected[key]}")
