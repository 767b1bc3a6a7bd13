"""The data sets that the reference probes (SAEBench 0.6.0), and the toy's, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.texts.config import LabelledConfig

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
    "files": "data/train-*.parquet",  # what its script, which is no longer run, reads
    "text": "content",
    "label": "path",
    "endings": {".c": "C", ".h": "C", ".py": "Python", ".html": "HTML", ".java": "Java"}
    | dict.fromkeys((".php", ".php3", ".php4", ".php5", ".phps", ".phpt"), "PHP"),
    "take": "first",
    "min_chars": 128 * 3 + 50 * 3,  # so that 128 tokens of 3 characters are left
    "skip_chars": 50 * 3,  # 50 tokens, against licences
}
_EUROPARL: dict[str, Any] = {
    "source": "Helsinki-NLP/europarl",
    "pairs": {"en": "en-fr", "fr": "fr-it", "de": "de-en", "es": "es-fr", "nl": "nl-pt"},
    "take": "first",
}


def _named(name: str, classes: tuple[Any, ...], settings: Mapping[str, Any]) -> LabelledConfig:
    return LabelledConfig.parse({"name": name, "classes": [str(one) for one in classes], **settings})


REFERENCE = (
    _named("LabHC/bias_in_bios_class_set1", (0, 1, 2, 6, 9), _BIOS),
    _named("LabHC/bias_in_bios_class_set2", (11, 13, 14, 18, 19), _BIOS),
    _named("LabHC/bias_in_bios_class_set3", (20, 21, 22, 25, 26), _BIOS),
    _named(
        "canrager/amazon_reviews_mcauley_1and5",
        (1, 2, 3, 5, 6),
        _AMAZON | {"label": "category", "attribute": "rating"},
    ),
    _named("canrager/amazon_reviews_mcauley_1and5_sentiment", (1.0, 5.0), _AMAZON | {"label": "rating"}),
    _named("codeparrot/github-code", ("C", "Python", "HTML", "Java", "PHP"), _CODE),
    _named("fancyzhx/ag_news", (0, 1, 2, 3), {"source": "fancyzhx/ag_news", "test": "test"}),
    _named("Helsinki-NLP/europarl", ("en", "fr", "de", "es", "nl"), _EUROPARL),
)
"""The reference's eight."""


def _toy(kind: str, label: str, attribute: str | None = None) -> LabelledConfig:
    return LabelledConfig(name=f"toy_{label}", subset=kind, label=label, attribute=attribute, test_share=1 / 3)


TOY = (
    _toy("biography", "profession", "gender"),
    _toy("biography", "gender"),
    _toy("review", "category", "sentiment"),
    _toy("review", "sentiment"),
)
"""The toy's: eight professions, two genders, six categories, two sentiments."""

KNOWN = {config.name: config for config in (*REFERENCE, *TOY)}
"""By the name that a config may give instead of a data set's settings."""


def _by_name(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return value
    for name in value:
        if isinstance(name, str) and name not in KNOWN:
            raise ValueError(f"there is no data set called {name!r}; known by name: {', '.join(KNOWN)}")
    return tuple(KNOWN[one] if isinstance(one, str) else one for one in value)


DataSets = Annotated[
    tuple[LabelledConfig, ...],
    BeforeValidator(_by_name, json_schema_input_type=tuple[str | LabelledConfig, ...]),
]
"""Settings of data sets, or names of known ones."""


def is_toy(testbed: Testbed) -> bool:
    """Whether the model or the text of the cache is the toy's, for which the defaults are its data sets."""
    made_with = testbed.cache.attributes["config"]
    return "toy" in (made_with.get("model", {}).get("model"), made_with["dataset"]["source"])
