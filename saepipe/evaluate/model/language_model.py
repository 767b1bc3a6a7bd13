"""The language model of an evaluation: the one that made the cache, possibly on another device or in another dtype."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from saepipe.data.cache.cache import Cache
from saepipe.data.errors import ConfigError
from saepipe.data.folders import artifact
from saepipe.evaluate.model.config import ModelSettings
from saepipe.harvest.identity import compare
from saepipe.harvest.model import LanguageModel, load_model
from saepipe.harvest.model_config import ModelConfig

_OF_THE_DTYPE = ("weights", "config.dtype", "config.quantization_config.bnb_4bit_compute_dtype")
"""Keys of a model's identity that another dtype changes."""


def model_config(cache: Cache, config: ModelSettings) -> ModelConfig:
    """Returns the config of the model that made the cache, with this evaluation's device, dtype and trust.

    A device that the evaluation names takes the place of a device map.
    """
    made_with = dict(cache.attributes["config"]["model"])
    if config.device != "auto":
        made_with.pop("device_map", None)
    made_with["trust_remote_code"] = config.trust_remote_code and made_with.get("trust_remote_code", False)
    return ModelConfig.parse(made_with | {"device": config.device} | ({"dtype": config.dtype} if config.dtype else {}))


def load_model_of(cache: Cache, config: ModelSettings, say: Callable[[str], None] = lambda _: None) -> LanguageModel:
    """Loads the model that made the cache; raises ConfigError if its name now leads to another model.

    `say` is told of differences that only another version of a package makes.
    """
    special_ids, bos_id = frozenset(cache.attributes["special_ids"]), cache.attributes.get("bos_id")
    loaded = load_model(model_config(cache, config))
    language_model = replace(loaded, stored_special_ids=special_ids, chosen_bos_id=bos_id)
    same_dtype = language_model.config.dtype == cache.attributes["config"]["model"]["dtype"]
    comparison = compare(
        cache.attributes["model"],
        language_model.identity,
        (cache.attributes.get("versions", {}), artifact.provenance()),
        leave_out=("revision", *(() if same_dtype else _OF_THE_DTYPE)),
    )
    if comparison.changed:
        raise ConfigError(
            f"{language_model.config.model} is not the model that made {cache.path}:\n  "
            + "\n  ".join(comparison.changed),
            hint="evaluate with the same checkpoint and revision",
        )
    for sentence in comparison.accepted:
        say(f"{cache.path}: {sentence}")
    return language_model
