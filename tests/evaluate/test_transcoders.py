"""Transcoders evaluated: what replaces the target, where probes read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from saepipe.data.cache.cache import Cache
from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.compare.checks import check_same_data
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.dry_run import dry_run
from saepipe.evaluate.metrics.absorption.material import load_material
from saepipe.evaluate.metrics.absorption.metric import Absorption
from saepipe.evaluate.metrics.base import Measurement
from saepipe.evaluate.metrics.core.metric import Core
from saepipe.evaluate.metrics.core.model_losses import model_losses
from saepipe.evaluate.model.testbed import Passes, Testbed
from saepipe.evaluate.model.testbeds import Testbeds
from saepipe.evaluate.plan import plan_jobs
from saepipe.evaluate.run import evaluate
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.stats.intervals import Estimate
from saepipe.evaluate.use import sae as notebook
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.run import harvest
from saepipe.train.run import train
from saepipe.train.rundir.load import SAE
from saepipe.train.sae.relu import ReLU

MLP_IN, MLP_OUT, BETWEEN = "blocks.1.hook_mlp_in", "blocks.1.hook_mlp_out", "blocks.1.hook_resid_post"
D, D_SAE = 128, 24


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, toy_config: HarvestConfig) -> Cache:
    hooks = (MLP_IN, MLP_OUT, BETWEEN)
    settings = {"hooks": hooks, "num_tokens": 4096, "heldout_tokens": 1200}
    return harvest(toy_config.model_copy(update=settings), tmp_path_factory.mktemp("sites") / "cache")


@pytest.fixture(scope="module")
def testbeds(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Testbeds:
    config = EvaluateConfig(artifacts=tmp_path_factory.mktemp("artifacts"), batch_size=4, device="cpu")
    return Testbeds(config, Passes())


def subject(**changes: Tensor) -> Subject:
    """Returns a ReLU transcoder with random weights, or those given."""
    rng = torch.Generator().manual_seed(0)
    params = {
        "W_enc": torch.randn(D, D_SAE, generator=rng) / D**0.5,
        "b_enc": torch.randn(D_SAE, generator=rng),
        "W_dec": torch.randn(D_SAE, D, generator=rng),
        "b_dec": torch.randn(D, generator=rng),
        "b_in": torch.zeros(D),
    }
    run: Any = SimpleNamespace(variant="by hand", seed=0)
    return Subject(run, SAE(ReLU(d_sae=D_SAE), {**params, **changes}, {}), {})


def usable(transcoder: Subject, hook: str, target: str) -> notebook.SAE:
    """Returns the transcoder as `sp.load` gives it."""
    sae = transcoder.sae
    assert isinstance(sae, SAE)
    return notebook.SAE(sae.settings, dict(sae.named_parameters()), {"hook_name": hook, "hook_name_out": target})


def measured(transcoder: Subject, testbed: Testbed) -> dict[str, float]:
    """Returns the figures of `core` by key."""
    (result,) = Core().measure([transcoder], testbed, Silent())
    return figures(result)


def figures(result: Measurement) -> dict[str, float]:
    every = {key: value for group in (*result.metrics.values(), result.extra) for key, value in group.items()}
    numbers = {key: each.value if isinstance(each, Estimate) else each for key, each in every.items()}
    return {key: value for key, value in numbers.items() if value is not None}


def test_writing_the_mean_is_mean_ablation(cache: Cache, testbeds: Testbeds) -> None:
    testbed = testbeds.at(cache, MLP_IN, MLP_OUT)
    mean = model_losses(testbed, testbed.num_contexts(None), Silent()).mean.float()
    own = measured(subject(W_dec=torch.zeros(D_SAE, D), b_dec=mean), testbed)
    assert own["explained_variance"] == pytest.approx(0, abs=1e-4)
    assert own["delta_ce"] == pytest.approx(own["delta_ce_mean_ablation"], abs=1e-5)
    assert own["ce_loss_score_mean_ablation"] == pytest.approx(0, abs=1e-3)
    assert own["delta_ce"] != pytest.approx(own["delta_ce_with_ablation"], rel=0.01)


def test_writing_nothing_is_zero_ablation(cache: Cache, testbeds: Testbeds) -> None:
    own = measured(subject(W_dec=torch.zeros(D_SAE, D), b_dec=torch.zeros(D)), testbeds.at(cache, MLP_IN, MLP_OUT))
    assert own["delta_ce"] == pytest.approx(own["delta_ce_with_ablation"], abs=1e-6)
    assert own["delta_ce"] > 0.01


def test_a_skip_that_is_the_map_leaves_the_model_as_it_is(toy_cache: Path, testbeds: Testbeds) -> None:
    """The identity from a hook to itself; such a run is refused, but its figures are known."""
    cache, hook = Cache.open(toy_cache), "blocks.2.hook_resid_post"
    testbed = testbeds.at(cache, hook, hook)
    zeros = {"W_dec": torch.zeros(D_SAE, D), "b_dec": torch.zeros(D)}
    own = measured(subject(W_skip=torch.eye(D), **zeros), testbed)
    assert own["explained_variance"] == pytest.approx(1, abs=1e-6)
    assert own["delta_ce"] == pytest.approx(0, abs=1e-6)
    assert own["delta_ce_skip_alone"] == pytest.approx(0, abs=1e-6)
    assert own["delta_ce_without_skip"] == pytest.approx(own["delta_ce_with_ablation"], abs=1e-6)
    assert "delta_ce_mean_ablation" not in own  # between layers


def test_the_loss_is_that_of_the_model_with_its_mlp_replaced(cache: Cache, testbeds: Testbeds) -> None:
    """An independent forward: a hook on the module whose output is added to the residual stream."""
    testbed, transcoder = testbeds.at(cache, MLP_IN, MLP_OUT), subject(W_skip=0.1 * torch.eye(D))
    own = measured(transcoder, testbed)
    model, (ids, keep) = testbed.language_model.model, (cache.heldout.contexts, torch.from_numpy(cache.heldout.keep))
    layer: Any = model.get_submodule("model.layers.1")
    tokens, read = torch.from_numpy(ids.astype("int64")), []

    def losses() -> Tensor:
        logits = model(tokens).logits.float()
        return cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")

    def replaced(_: Any, __: Any, y: Tensor) -> Tensor:
        (x,) = read
        return torch.where(keep[..., None], transcoder.sae(x.bfloat16().float()), y)  # type: ignore[operator]

    with torch.no_grad():
        clean = losses()
        handles = [
            layer.pre_feedforward_layernorm.register_forward_hook(lambda _, __, x: read.append(x)),
            layer.post_feedforward_layernorm.register_forward_hook(replaced),
        ]
        spliced = losses()
    for handle in handles:
        handle.remove()
    scored = (keep[:, :-1] & keep[:, 1:]).flatten()
    assert own["delta_ce"] == pytest.approx((spliced - clean)[scored].double().mean().item(), rel=0.02)
    assert own["ce_loss_with_sae"] == pytest.approx(spliced[scored].double().mean().item(), rel=0.005)


def test_an_attached_transcoder_replaces_its_target(cache: Cache, testbeds: Testbeds) -> None:
    """Read at one module, written at another: spliced, and steered by a row of the decoder."""
    sae = usable(subject(W_skip=0.1 * torch.eye(D)), MLP_IN, MLP_OUT)
    model = testbeds.at(cache, MLP_IN, MLP_OUT).language_model.model
    ids = torch.from_numpy(cache.heldout.contexts[:1].astype("int64"))
    seen: dict[str, Tensor] = {}
    layer: Any = model.get_submodule("model.layers.1")
    handles = [
        layer.pre_feedforward_layernorm.register_forward_hook(lambda _, __, x: seen.update(x=x)),
        layer.post_feedforward_layernorm.register_forward_hook(lambda _, __, y: seen.update(y=y)),
        layer.register_forward_hook(lambda _, __, out: seen.update(out=out)),
    ]
    with torch.no_grad():
        model(ids)
        x, y, out = seen["x"], seen["y"], seen["out"]
        with sae.attach(model, skip_ids=[]) as latents:
            model(ids)
            assert torch.equal(latents.acts, sae.encode(x))  # type: ignore[arg-type]
            torch.testing.assert_close(seen["out"], out)
            latents.splice()
            model(ids)
            torch.testing.assert_close(seen["out"] - out, sae(x) - y, rtol=1e-4, atol=1e-4)
            latents.clear().steer(3, 2.0)
            model(ids)
            moved = (seen["out"] - out).flatten(0, 1)
            torch.testing.assert_close(moved, (2 * sae.W_dec[3]).expand_as(moved), rtol=1e-4, atol=1e-4)
    for handle in handles:
        handle.remove()


def test_a_crosscoder_cannot_be_attached(cache: Cache, testbeds: Testbeds) -> None:
    sae = usable(subject(), MLP_IN, MLP_OUT)
    sae.metadata |= {"widths": [64, 64], "hook_name": f"{MLP_IN} + {MLP_OUT}"}
    with pytest.raises(ConfigError, match="a crosscoder cannot be attached"):
        sae.attach(testbeds.at(cache, MLP_IN, MLP_OUT).language_model.model)


def test_a_target_below_its_hook_cannot_be_attached(cache: Cache, testbeds: Testbeds) -> None:
    model = testbeds.at(cache, MLP_IN, MLP_OUT).language_model.model
    with (
        usable(subject(), MLP_OUT, MLP_IN).attach(model),
        pytest.raises(ConfigError, match=f"reaches {MLP_IN} before {MLP_OUT}"),
    ):
        model(torch.tensor([[2, 5]]))


def test_probes_read_what_is_written(cache: Cache, testbeds: Testbeds) -> None:
    """The letters' probes of a transcoder are those of an SAE at its target; its latents are those of its own input."""
    settings = Absorption(max_words=200)._material_settings
    across, there, here = (
        load_material(testbeds.at(cache, *hooks), settings, Silent())
        for hooks in ((MLP_IN, MLP_OUT), (MLP_OUT,), (MLP_IN,))
    )
    assert torch.equal(across.probe.weight, there.probe.weight)
    assert torch.equal(across.true_positives, there.true_positives)
    assert torch.equal(across.written_scored, there.x_scored)
    assert torch.equal(across.x_test, here.x_test)


def test_a_row_of_two_sites_is_encoded_like_its_first(cache: Cache, testbeds: Testbeds) -> None:
    transcoder, testbed = subject(W_skip=torch.eye(D)), testbeds.at(cache, MLP_IN, MLP_OUT)
    ids = torch.from_numpy(cache.heldout.contexts[:2].astype("int64"))
    rows = testbed.capture(ids).flatten(0, 1)
    x, y = testbed.split(rows)
    assert rows.shape[1] == testbed.row_width == 2 * D
    assert torch.equal(transcoder.encode(rows), transcoder.encode(x))
    assert torch.equal(transcoder.encode_sparse(rows).values, transcoder.encode_sparse(x).values)
    assert not torch.equal(x, y)
    expected = x + transcoder.sae.b_dec  # type: ignore[attr-defined]
    torch.testing.assert_close(transcoder.without_latents(rows), expected)


@pytest.fixture(scope="module")
def runs(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Returns an SAE, a transcoder and a skip transcoder of 30 steps."""
    lenient = {"most_l0": 1.0, "least_variance": -1e9, "least_alive": 0.0}
    config = {"cache": str(cache.path), "hook": MLP_IN, "sae": {"name": "topk", "d_sae": D_SAE, "k": 4}, "steps": 30}
    variants = [
        {"name": "sae"},
        {"name": "across", "target": MLP_OUT},
        {"name": "skip", "target": MLP_OUT, "skip": True},
    ]
    return train(
        {**config, "batch_size": 128, "health": lenient, "variants": variants}, tmp_path_factory.mktemp("runs")
    )


def test_all_default_metrics_measure_transcoders(runs: list[Path]) -> None:
    probing = {"name": "sparse_probing", "datasets": ["toy_gender"], "train_size": 40, "test_size": 40, "k_values": [1]}
    metrics = [{"name": "core"}, probing, {"name": "absorption", "max_words": 100}, {"name": "geometry"}]
    skip = runs[2]
    evaluate([skip], {"metrics": metrics, "batch_size": 8, "features": {"num_tokens": 1000}})
    names = {path.stem for path in (skip / "eval").glob("*.json")}
    assert names == {"core", "sparse_probing", "absorption", "geometry"}
    assert (skip / "features").is_dir()


def test_the_stability_of_every_kind(cache: Cache, tmp_path: Path) -> None:
    """Decoders of a transcoder are compared where they write; those of a crosscoder over all hooks at once."""
    config = {"cache": str(cache.path), "sae": {"name": "topk", "d_sae": 24, "k": 4}, "steps": 5, "batch_size": 128}
    config |= {"seeds": [0, 1], "health": {"most_l0": 1.0, "least_variance": -1e9, "least_alive": 0.0}}
    kinds = {"across": {"hook": MLP_IN, "target": MLP_OUT, "skip": True}, "joint": {"hooks": [BETWEEN, MLP_OUT]}}
    settings = {"metrics": [{"name": "stability", "num_contexts": 4}], "features": None}
    for name, sites in kinds.items():
        runs = train({**config, **sites}, tmp_path / name)
        first, second = (json.loads(path.read_text())["eval_result_metrics"] for path in evaluate(runs, settings))
        assert first["decoder"]["pw_mcc"] == second["decoder"]["pw_mcc"] < 0.9
        assert abs(first["decoder"]["pw_mcc_above_flipped"]) < 0.3


def test_a_dry_run_times_every_kind(cache: Cache, runs: list[Path], tmp_path: Path) -> None:
    config = {"cache": str(cache.path), "hooks": [BETWEEN, MLP_OUT], "sae": {"name": "topk", "d_sae": 24, "k": 4}}
    lenient = {"most_l0": 1.0, "least_variance": -1e9, "least_alive": 0.0}
    (crosscoder,) = train({**config, "steps": 30, "batch_size": 128, "health": lenient}, tmp_path / "runs")
    settings = EvaluateConfig.parse({"metrics": [{"name": "core"}], "batch_size": 4, "artifacts": str(tmp_path)})
    for run in (crosscoder, runs[2]):
        planned = dry_run(run, settings, out=tmp_path / "out", seconds=0.01)
        assert planned["seconds"] > 0
        assert len(planned["measure"]) == 1


def test_transcoders_and_saes_are_not_compared(runs: list[Path]) -> None:
    rows: Any = [
        SimpleNamespace(
            run=SimpleNamespace(cache_fingerprint="c", hook=MLP_IN, target=target), heldout=None, protocols={}, label=""
        )
        for target in (None, MLP_OUT)
    ]
    findings = check_same_data(rows, {})
    assert [finding.rule for finding in findings] == ["H16"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "reference"}, "is a transcoder, of which SAEBench has no metrics"),
        ({"metrics": [{"name": "unlearning"}]}, "unlearning: it clamps latents at the hook that they read"),
    ],
)
def test_what_has_no_meaning_is_refused(runs: list[Path], changes: dict[str, Any], message: str) -> None:
    config = EvaluateConfig.parse({"metrics": [{"name": "core"}], **changes})
    with pytest.raises(ConfigError, match=message):
        plan_jobs(runs[1], config, None, Testbeds(config, Passes()), print)
