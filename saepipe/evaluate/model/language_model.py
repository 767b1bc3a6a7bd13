"""The language model of an evaluation: the one that made the cache, possibly on another device or in another dtype."""

from __future__ import annotations

from saepipe.data.cache.cache import Cache
from saepipe.data.errors import ConfigError
from saepipe.evaluate.model.config import ModelSettings
from saepipe.harvest.model import LanguageModel, ModelConfig, load_model


def model_config(cache: Cache, config: ModelSettings) -> ModelConfig:
    """Returns the config of the model that made the cache, with this evaluation's device and dtype."""
    made_with = dict(cache.attributes["config"]["model"])
    return ModelConfig.parse(made_with | {"device": config.device} | ({"dtype": config.dtype} if config.dtype else {}))


def load_model_of(cache: Cache, config: ModelSettings) -> LanguageModel:
    """Loads the model that made the cache; raises ConfigError if its name now leads to another model."""
    language_model = load_model(model_config(cache, config))
    made_with, actual = cache.attributes["model"], language_model.identity
    same_dtype = language_model.config.dtype == cache.attributes["config"]["model"]["dtype"]
    for key in ("class", "tokenizer", *(("weights",) if same_dtype else ())):
        if made_with[key] != actual[key]:
            raise ConfigError(
                f"{actual['id']} is not the model that made {cache.path}: {key} {actual[key]}, not {made_with[key]}",
                hint="evaluate with the same checkpoint and revision",
            )
    return language_model
