"""The language model of an evaluation: the one that made the cache, on another device or in another dtype perhaps."""

from __future__ import annotations

from saepipe.data.cache.cache import Cache
from saepipe.data.errors import ConfigError
from saepipe.evaluate.model.config import ModelSettings
from saepipe.harvest.model import LanguageModel, ModelConfig, load_model


def model_config(cache: Cache, config: ModelSettings) -> ModelConfig:
    """The model that made the cache, on this evaluation's device and in its dtype."""
    made_with = dict(cache.attributes["config"]["model"])
    return ModelConfig.parse(made_with | {"device": config.device} | ({"dtype": config.dtype} if config.dtype else {}))


def load_model_of(cache: Cache, config: ModelSettings) -> LanguageModel:
    """Loads the model that made the cache; raises ConfigError if what is found under its name is another one."""
    language_model = load_model(model_config(cache, config))
    made_with, found = cache.attributes["model"], language_model.identity
    same_dtype = language_model.config.dtype == cache.attributes["config"]["model"]["dtype"]
    for key in ("class", "tokenizer", *(("weights",) if same_dtype else ())):
        if made_with[key] != found[key]:
            raise ConfigError(
                f"{found['id']} is not the model that made {cache.path}: {key} {found[key]}, not {made_with[key]}",
                hint="evaluate with the same checkpoint and revision",
            )
    return language_model
