"""Datasets that configs may give by name: those that the reference (SAEBench 0.6.0) probes, and the toy's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.texts.config import LabelledDatasetConfig

_BIOS: dict[str, Any] = {
    "source": "LabHC/bias_in_bios",
    "test": "test",
    "text": "hard_text",
    "label": "profession",
    "attribute": "gender",
}
_AMAZON: dict[str, Any] = {"source": "canrager/amazon_reviews_mcauley_1and5", "test": "test"}
_CODE: dict[str, Any] = {
    "source": "codeparrot/github-code",
    "files": "data/train-*.parquet",  # the files that its loading script, which can no longer be run, reads
    "text": "content",
    "label": "path",
    "endings": {".c": "C", ".h": "C", ".py": "Python", ".html": "HTML", ".java": "Java"}
    | dict.fromkeys((".php", ".php3", ".php4", ".php5", ".phps", ".phpt"), "PHP"),
    "take": "first",
    "min_chars": 128 * 3 + 50 * 3,  # leaves 128 tokens of 3 characters
    "skip_chars": 50 * 3,  # 50 tokens, to drop licences
}
_EUROPARL: dict[str, Any] = {
    "source": "Helsinki-NLP/europarl",
    "pairs": {"en": "en-fr", "fr": "fr-it", "de": "de-en", "es": "es-fr", "nl": "nl-pt"},
    "take": "first",
}


def _labelled(name: str, classes: tuple[Any, ...], settings: Mapping[str, Any]) -> LabelledDatasetConfig:
    return LabelledDatasetConfig.parse({"name": name, "classes": [str(label) for label in classes], **settings})


REFERENCE = (
    _labelled("LabHC/bias_in_bios_class_set1", (0, 1, 2, 6, 9), _BIOS),
    _labelled("LabHC/bias_in_bios_class_set2", (11, 13, 14, 18, 19), _BIOS),
    _labelled("LabHC/bias_in_bios_class_set3", (20, 21, 22, 25, 26), _BIOS),
    _labelled(
        "canrager/amazon_reviews_mcauley_1and5",
        (1, 2, 3, 5, 6),
        _AMAZON | {"label": "category", "attribute": "rating"},
    ),
    _labelled("canrager/amazon_reviews_mcauley_1and5_sentiment", (1.0, 5.0), _AMAZON | {"label": "rating"}),
    _labelled("codeparrot/github-code", ("C", "Python", "HTML", "Java", "PHP"), _CODE),
    _labelled("fancyzhx/ag_news", (0, 1, 2, 3), {"source": "fancyzhx/ag_news", "test": "test"}),
    _labelled("Helsinki-NLP/europarl", ("en", "fr", "de", "es", "nl"), _EUROPARL),
)
"""The reference's eight datasets."""


def _toy(kind: str, label: str, attribute: str | None = None) -> LabelledDatasetConfig:
    return LabelledDatasetConfig(name=f"toy_{label}", subset=kind, label=label, attribute=attribute, test_share=1 / 3)


TOY = (
    _toy("biography", "profession", "gender"),
    _toy("biography", "gender"),
    _toy("review", "category", "sentiment"),
    _toy("review", "sentiment"),
)
"""The toy's four datasets: eight professions, two genders, six categories, two sentiments."""

KNOWN_DATASETS = {config.name: config for config in (*REFERENCE, *TOY)}
"""Datasets by the name that a config may give instead of settings."""


def _resolve_names(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return value
    for name in value:
        if isinstance(name, str) and name not in KNOWN_DATASETS:
            raise ValueError(f"there is no dataset called {name!r}; known by name: {', '.join(KNOWN_DATASETS)}")
    return tuple(KNOWN_DATASETS[item] if isinstance(item, str) else item for item in value)


Datasets = Annotated[
    tuple[LabelledDatasetConfig, ...],
    BeforeValidator(_resolve_names, json_schema_input_type=tuple[str | LabelledDatasetConfig, ...]),
]
"""Datasets, each given by its settings or by its name in `KNOWN_DATASETS`."""


def is_toy(testbed: Testbed) -> bool:
    """Returns whether the cache's model or text is the toy's, in which case metrics default to the toy's datasets."""
    harvest_config = testbed.cache.attributes["config"]
    return "toy" in (harvest_config.get("model", {}).get("model"), harvest_config["dataset"]["source"])
