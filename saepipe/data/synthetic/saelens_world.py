"""Reads a world that SAELens' `SyntheticModel.save` wrote: two JSON files and one of safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.synthetic.copula_world import CopulaWorld

CONFIG, WEIGHTS, HIERARCHY = "synthetic_model_config.json", "synthetic_model.safetensors", "hierarchy.json"


def read_saelens_world(folder: Path) -> CopulaWorld:
    """Reads the world in a folder such as a snapshot of `decoderesearch/synth-sae-bench-16k-v2`.

    The files hold directions, bias, rates and correlations. Magnitudes follow from the config and its seed, by the
    CPU's generator, as in SAELens.

    Raises:
        ConfigError: if the folder is not such a world, or its magnitudes cannot be known.
        CorruptDataError: if a file is damaged, or they do not fit together.
    """
    config, hierarchy = _read_json(folder / CONFIG), _read_json(folder / HIERARCHY, missing={"roots": []})
    try:
        weights = load_file(folder / WEIGHTS)
        num, seed = int(config["num_features"]), config["seed"]
        parent, group, scaled = _forest(hierarchy["roots"], num)
        world = CopulaWorld(
            directions=weights["feature_vectors"].float(),
            bias=weights["bias"].float(),
            parent=parent,
            group=group,
            scaled=scaled,
            threshold=-torch.special.ndtri(weights["firing_probabilities"].double()).float(),
            loadings=weights.get("correlation_factor", torch.empty(num, 0)).float(),
            mean=_magnitudes(config["mean_firing_magnitudes"], num, None if seed is None else seed + 2),
            std=_magnitudes(config["std_firing_magnitudes"], num, None if seed is None else seed + 1),
        )
    except FileNotFoundError:
        raise ConfigError(f"{folder / WEIGHTS} is missing", hint="copy all files of the world") from None
    except (SafetensorError, KeyError, IndexError, TypeError, RuntimeError) as error:
        raise CorruptDataError(f"{folder} is no readable world of SAELens: {error!r}") from None
    if {len(value) for value in vars(world).values() if value is not world.bias} != {num}:
        raise CorruptDataError(f"{folder} does not describe {num} features in all of its files")
    return world


def _read_json(path: Path, missing: Any = None) -> Any:
    if missing is not None and path.parent.is_dir() and not path.is_file():
        return missing
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}", hint="name a folder that SAELens' SyntheticModel.save wrote"
        ) from None
    except ValueError as error:
        raise CorruptDataError(f"{path} is not JSON: {error}") from None


def _forest(roots: Sequence[Mapping[str, Any]], num: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns parent, group and scaled, each (num,). A node without a feature passes its own parent on."""
    parent, group = torch.full((num,), -1), torch.full((num,), -1)
    scaled = torch.zeros(num, dtype=torch.bool)
    nodes = [(node, -1, False) for node in roots]
    while nodes:
        node, above, scales = nodes.pop()
        feature, children = node["feature_index"], node["children"]
        if feature is not None:
            parent[feature], scaled[feature] = above, scales and above >= 0
            above = feature
        siblings = [child["feature_index"] for child in children if child["feature_index"] is not None]
        if node["mutually_exclusive_children"] and len(siblings) > 1:
            group[siblings] = int(group.max()) + 1
        nodes += [(child, above, node.get("scale_children_by_parent", False)) for child in children]
    return parent, group, scaled


def _magnitudes(value: Any, num: int, seed: int | None) -> Tensor:
    """Returns what a magnitude of the config generates, (num,) float32."""
    match value:
        case int() | float() | {"generator_name": "constant", "value": int() | float()}:
            return torch.full((num,), float(value["value"] if isinstance(value, Mapping) else value))
        case {"generator_name": "linear", "start": start, "end": end}:
            return torch.linspace(start, end, num)
        case {"generator_name": "exponential", "start": start, "end": end}:
            return start * (end / start) ** torch.linspace(0, 1, num)
        case {"generator_name": "folded_normal", "mean": mean, "std": std, "min_value": least, "max_value": most}:
            if seed is None:
                raise ConfigError("the world has random magnitudes and no seed", hint="save it again with a seed")
            normal = torch.randn(num, generator=torch.Generator().manual_seed(seed))
            folded = (mean + std * normal).abs()
            return folded if least is most is None else folded.clamp(least, most)
    raise ConfigError(f"magnitudes {value!r} are not known", hint="constant, linear, exponential or folded_normal")
