"""What a folder of another library holds, brought to our convention, and the checks that all readers share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.train.sae.base import Architecture, Params


@dataclass(frozen=True)
class Source:
    """An SAE from elsewhere, and what its folder says of it; None where it does not say."""

    sae: Architecture
    params: Params
    """float32, on raw activations, in the convention of `saepipe.train.sae.base`"""
    files: tuple[Path, ...]
    """what was read"""
    said: Mapping[str, Any]
    """the folder's own config, as plain data"""
    name: str
    """a name for the variant"""
    model: str | None = None
    hook: str | None = None
    layer: int | None = None
    """the decoder layer, where no hook is named; its output is meant"""
    seed: int | None = None

    @property
    def d_in(self) -> int:
        return self.params["W_dec"].shape[1]


def existing(path: Path) -> Path:
    """The path of a file that an SAE needs; raises ConfigError if it is not there."""
    if not path.is_file():
        hint = "check the path and --from; one SAE at a time"
        raise ConfigError(f"{path.parent} holds no SAE: {path.name} is missing", hint=hint)
    return path


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises ConfigError if there is no such file, CorruptDataError if it holds something else."""
    text = existing(path).read_text(errors="replace")
    try:
        value = json.loads(text)
    except ValueError as error:
        raise CorruptDataError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise CorruptDataError(f"{path} holds a {type(value).__name__}, not an object")
    return value


def check_tensors(
    path: Path, kind: str, found: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], optional: str = ""
) -> None:
    """Raises ConfigError if the tensors in `path` are not those of a `kind`: names, then shapes."""
    missing, unknown = expected.keys() - found.keys() - {optional}, found.keys() - expected.keys()
    if missing or unknown:
        told = [f"no {', '.join(sorted(missing))}"] if missing else []
        told += [f"{', '.join(sorted(unknown))} besides"] if unknown else []
        raise ConfigError(
            f"{path} is no {kind}: it has {' and '.join(told)}", hint=f"a {kind} has {', '.join(sorted(expected))}"
        )
    for key, tensor in found.items():
        if tuple(tensor.shape) != expected[key]:
            raise ConfigError(f"{path}: {key} of a {kind} has shape {tuple(tensor.shape)}, not {expected[key]}")
