"""sae-probes 0.4.2: our mode reference gives its numbers on the same activations, on its own texts and labels."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from saepipe.data.cache.cache import Cache
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.metrics.sae_probes.binary_tasks import Task, binary_tasks
from saepipe.evaluate.metrics.sae_probes.package_tasks import package_tasks
from saepipe.evaluate.metrics.sae_probes.probe_scores import ProbeScores, ProbeSettings, dense_scores, sparse_scores
from saepipe.evaluate.metrics.sae_probes.splits import Setting, splits
from saepipe.evaluate.metrics.sparse_probing.probe_keys import FULL
from saepipe.evaluate.model.kept_work import KeptWork, Work
from saepipe.evaluate.model.language_model import load_model_of
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.texts.labelled_rows import read_labelled_rows
from saepipe.evaluate.texts.last_token import last_token_activations, last_token_work

pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore::FutureWarning")]

REASON = (
    "sae-probes 0.4.2 is not installed: it needs pandas<3 and pyarrow<26, which conflicts with our pins; "
    "`pip install --no-deps sae-probes==0.4.2 xgboost zstandard` next to the extra [interop]"
)
TASK = "95_toxic_is"  # its smallest: 728 rows, 364 of each class
MODEL, HOOK = "made-up", "blocks.1.hook_resid_post"
D_IN, D_SAE = 6, 24
Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def package() -> ModuleType:
    return pytest.importorskip("sae_probes", reason=REASON)


@pytest.fixture(scope="module")
def task(package: ModuleType) -> Task:
    (config,) = package_tasks(f"sae-probes/{TASK}")
    (task,) = binary_tasks(config, [row.label for row in read_labelled_rows(config, None)], seed=42)
    return task


@pytest.fixture(scope="module")
def x(task: Task) -> Tensor:
    """(num_rows, d_in) activations that depend on the label a little, in directions of very different length."""
    rng = torch.Generator().manual_seed(0)
    label = torch.from_numpy(task.positive).float()[:, None]
    return (torch.randn(len(task.rows), D_IN, generator=rng) + 0.4 * label) * torch.logspace(-1, 1, D_IN)


def encode(x: Tensor) -> Tensor:
    """Returns latents of a ReLU SAE, the last four of which are dead; each row's bits do not depend on the batch."""
    rng = torch.Generator().manual_seed(1)
    weight, bias = (torch.randn(*shape, generator=rng, dtype=torch.float64) for shape in ((D_IN, D_SAE), (D_SAE,)))
    bias[-4:] = -1e4
    return torch.relu(x.double() @ weight + bias).float()


@pytest.fixture
def activations(x: Tensor, tmp_path: Path) -> Path:
    """A folder in which the package finds the model's activations."""
    path = tmp_path / f"model_activations_{MODEL}" / f"{TASK}_{HOOK}.pt"
    path.parent.mkdir()
    torch.save(x, path)
    return tmp_path


def check(ours: Mapping[str, ProbeScores], theirs: Sequence[Mapping[str, Any]]) -> None:
    assert theirs
    for result in theirs:
        score = ours[str(result["k"]) if "k" in result else FULL]
        for name in ("test_auc", "test_acc", "test_f1", "val_auc"):
            assert getattr(score, name.removeprefix("test_")) == pytest.approx(result[name], abs=1e-12), name
        assert score.answers.columns.tolist() == result.get("indices", list(range(D_IN)))


@pytest.mark.parametrize(
    ("setting", "name", "more"),
    [
        ("normal", "normal", {"reg_type": "l1"}),
        ("normal", "normal", {"reg_type": "l2"}),
        ("normal", "normal", {"reg_type": "l1", "binarize": True}),
        ("scarcity", "num_train=2", {"reg_type": "l1", "num_train": 2}),
        ("scarcity", "num_train=10", {"reg_type": "l1", "num_train": 10}),
        ("scarcity", "num_train=74", {"reg_type": "l2", "num_train": 74}),
        ("imbalance", "positive=0.05", {"reg_type": "l1", "frac": 0.05}),
        ("imbalance", "positive=0.70", {"reg_type": "l2", "frac": 0.7}),
    ],
)
def test_probes_on_latents_score_as_its_own(
    task: Task, x: Tensor, activations: Path, setting: Setting, name: str, more: dict[str, Any]
) -> None:
    module = importlib.import_module("sae_probes.run_sae_evals")
    if "frac" in more:
        more["frac"] = next(frac for frac in module.FRACS if abs(frac - more["frac"]) < 1e-9)
    ks = (1, 2, 8)
    module.run_sae_eval(
        sae=SimpleNamespace(encode=encode),
        dataset=TASK,
        hook_name=HOOK,
        setting=setting,
        model_name=MODEL,
        model_cache_path=activations,
        device="cpu",
        ks=list(ks),
        results_path=activations / "results",
        **more,
    )
    (path,) = (activations / "results").rglob("*.json")
    settings = ProbeSettings(ks, more["reg_type"], more.get("binarize", False), 42, "reference")
    split = next(split for split in splits(task, setting, 42) if split.name == name)
    check(sparse_scores(encode(x), task, split, settings), json.loads(path.read_text()))


def test_the_probe_on_the_model_scores_as_its_baseline(task: Task, x: Tensor, activations: Path) -> None:
    module = importlib.import_module("sae_probes.run_baselines")
    where = {"model_name": MODEL, "model_cache_path": activations, "results_path": activations / "results"}
    module.run_baseline_dataset_layer(HOOK, TASK, "logreg", **where)
    (path,) = (activations / "results").rglob("*.json")
    (split,) = splits(task, "normal", 42)
    settings = ProbeSettings((1,), "l1", False, 42, "reference")
    check(dense_scores(x, task, split, settings), json.loads(path.read_text()))


def test_all_its_tasks_are_read_as_it_reads_them(package: ModuleType) -> None:
    data = importlib.import_module("sae_probes.utils_data")
    configs = package_tasks("sae-probes")
    assert [config.name for config in configs] == [f"sae-probes/{name}" for name in package.DATASETS]
    assert len(configs) == 113
    for config in configs[::8]:
        name = config.name.partition("/")[2]
        rows = list(read_labelled_rows(config, None))
        (task,) = binary_tasks(config, [row.label for row in rows], seed=42)
        assert [row.text for row in rows] == data.read_numbered_dataset_df(name)["prompt"].tolist()
        assert task.rows.tolist() == list(range(len(rows)))
        assert task.positive.tolist() == (data.get_yvals(name) == 1).tolist()


def test_many_of_its_test_texts_are_training_texts(package: ModuleType) -> None:
    """The reason why mode fixed takes each text once."""
    data = importlib.import_module("sae_probes.utils_data")
    shares = []
    for name in package.DATASETS:
        texts, y = data.read_numbered_dataset_df(name)["prompt"].to_numpy(), data.get_yvals(name)
        num_train = min(len(y) - 100, 1024)
        train, test = data.get_train_test_indices(y, num_train, len(y) - num_train - 1)
        shares.append(np.isin(texts[test], texts[train]).mean())
    assert np.median(shares) == pytest.approx(0.169, abs=5e-4)
    assert max(shares) == pytest.approx(0.939, abs=5e-4)
    assert (np.array(shares) > 0.1).sum() == 71


@pytest.mark.parametrize("context_size", [6, 64])
def test_last_tokens_are_its_last_tokens(
    package: ModuleType, toy_cache: Path, tmp_path: Path, context_size: int
) -> None:
    """The package's own loop runs the toy model; a text longer than the context keeps its end."""
    module = importlib.import_module("sae_probes.generate_model_activations")
    lm = load_model_of(Cache.open(toy_cache), EvaluateConfig(device="cpu"))
    testbed = Testbed(Cache.open(toy_cache), HOOK, lambda: lm, KeptWork(tmp_path, {}), 2, torch.device("cpu"))

    def run_with_cache(ids: Tensor, **_: Any) -> tuple[None, dict[str, Tensor]]:
        return None, {HOOK: testbed.capture(ids)}

    model = SimpleNamespace(tokenizer=lm.tokenizer, run_with_cache=run_with_cache)
    texts = ["The nurse works.", "A long story about a cat and its kettle, told at night.", "No"]
    side = lm.tokenizer.truncation_side
    try:
        theirs = module._process_activations(model, texts, 3, context_size, [HOOK], None, "cpu")[HOOK]
    finally:
        lm.tokenizer.truncation_side = side
    assert lm.tokenizer(texts[0])["input_ids"][0] == lm.bos_id
    ours = last_token_activations(testbed, texts, last_token_work(Work("by hand", {}), context_size), "three", Silent())
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
