"""The world of known places as testbeds, files and settings, and SAEs made by hand for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from helpers.known_places import (
    COUNTRY,
    D_IN,
    HOOK,
    LANGUAGE,
    TEMPLATES,
    made_model,
    made_tokenizer,
    write_places,
)
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.metrics.ravel.metric import Ravel
from saepipe.evaluate.metrics.ravel.pair_inputs import PairInputs
from saepipe.evaluate.model.config import Mode
from saepipe.evaluate.model.kept_work import KeptWork
from saepipe.evaluate.model.testbed import Testbed
from saepipe.harvest.model import LanguageModel
from saepipe.harvest.model_config import ModelConfig


@pytest.fixture(scope="session")
def lm() -> LanguageModel:
    return LanguageModel(made_model(), made_tokenizer(), ModelConfig(model="made", dtype="float32"))


@pytest.fixture
def testbed_at(lm: LanguageModel):
    """Makes testbeds that keep their work in a folder."""

    def make(folder: Path, mode: Mode = "fixed", hook: str = HOOK) -> Testbed:
        cache: Any = SimpleNamespace(path=Path("cache"))
        kept_work = KeptWork(folder, {"model": "made", "hook": hook})
        return Testbed(cache, hook, lambda: lm, kept_work, 8, torch.device("cpu"), mode)

    return make


@pytest.fixture
def testbed(testbed_at, tmp_path: Path) -> Testbed:
    return testbed_at(tmp_path / "artifacts")


@pytest.fixture
def deep_testbed(testbed: Testbed, lm: LanguageModel) -> Testbed:
    """Returns a testbed whose model has random weights in the layer above the hook."""
    torch.manual_seed(1)
    model = made_model()
    for weight in model.model.layers[1].parameters():
        weight += 0.1 * torch.randn(weight.shape)
    other = replace(lm, model=model)
    return replace(testbed, load=lambda: other)


@pytest.fixture
def inputs(metric, deep_testbed: Testbed) -> PairInputs:
    """Returns the pairs of the world, with the activations of the model with random weights."""
    return metric()._trial(0, deep_testbed, Silent()).inputs


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with places.jsonl, and templates.jsonl with one template that asks for something else."""
    folder = tmp_path_factory.mktemp("ravel")
    write_places(folder / "places.jsonl")
    templates = [{"attribute": name, "template": text} for name, texts in TEMPLATES.items() for text in texts]
    rows = [*templates, {"attribute": "size", "template": "%s is"}]
    (folder / "templates.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture
def metric(files: Path):
    """Makes the metric for the world, with settings for small runs."""

    def make(places: Path = files / "places.jsonl", **settings: Any) -> Ravel:
        entity_class = {
            "name": "place",
            "entities": {"source": str(places)},
            "templates": {"source": str(files / "templates.jsonl")},
            "attributes": ["country", "language"],
        }
        plain = {"entity_classes": [entity_class], "num_pairs": 80, "min_entities": 5, "learning_rate": 0.05}
        return Ravel.parse(plain | settings)

    return make


@pytest.fixture
def perfect_sae(make_sae):
    """Returns an SAE with a latent for each country (0 to 3) and each language (4 to 6)."""
    directions = torch.eye(D_IN)[: LANGUAGE.stop]
    return make_sae(directions.T.contiguous(), directions)


@pytest.fixture
def mixed_sae(make_sae):
    """Returns an SAE with a latent for each country with each language."""
    country, language = torch.eye(D_IN)[COUNTRY], torch.eye(D_IN)[LANGUAGE]
    directions = (country[:, None] + language[None]).flatten(0, 1)
    return make_sae(2 * directions.T.contiguous(), directions, torch.full((12,), -3.0))


@pytest.fixture
def silent_sae(make_sae):
    return make_sae(torch.zeros(D_IN, 3), torch.ones(3, D_IN))


@pytest.fixture
def random_sae(make_sae):
    """Returns an SAE of 24 latents with a large reconstruction error."""
    generator = torch.Generator().manual_seed(5)
    W_enc, W_dec = (torch.randn(D_IN, 24, generator=generator) for _ in range(2))
    return make_sae(W_enc, W_dec.T.contiguous() / 2, torch.randn(24, generator=generator) / 4)
