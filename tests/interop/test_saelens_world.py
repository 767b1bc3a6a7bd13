"""SAELens 6.54.12's `SyntheticModel`: the same recipe gives the same world here, and tokens of one distribution."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.repository import BENCH as BENCH_FOLDER
from saepipe.data.synthetic import CopulaTokens, CopulaWorld, SynthBench, draw_copula, read_saelens_world
from saepipe.data.synthetic.copula_tokens import Entries
from saepipe.evaluate.validate.synthbench_metrics import SynthBenchSums

sys.path.append(str(BENCH_FOLDER))
pytestmark = pytest.mark.interop

NUM, D_IN, NUM_TOKENS = 400, 24, 100_000
BENCH = SynthBench(num_features=NUM, d_in=D_IN, num_roots=8, depth=2, rates=(0.4, 5e-3))


@pytest.fixture(scope="module")
def model(sae_lens: ModuleType) -> Any:
    """SynthSAEBench's published recipe at a small size, on the CPU."""
    from synthbench_saelens import model_config

    synthetic: Any = pytest.importorskip("sae_lens.synthetic")
    return synthetic.SyntheticModel(model_config(BENCH))


@pytest.fixture(scope="module")
def world(model: Any, tmp_path_factory: pytest.TempPathFactory) -> CopulaWorld:
    folder = tmp_path_factory.mktemp("world")
    model.save(folder)
    return read_saelens_world(folder)


@pytest.fixture(scope="module")
def samples(model: Any, world: CopulaWorld) -> tuple[Tensor, Tensor]:
    """Magnitudes (NUM_TOKENS, NUM) of both samplers."""
    torch.manual_seed(0)
    return draw_copula(world, 0, 0, NUM_TOKENS).on.dense(NUM_TOKENS, NUM), model.activation_generator.sample(NUM_TOKENS)


def test_its_files_hold_the_world_that_our_recipe_makes(world: CopulaWorld) -> None:
    ours = BENCH.world(42)
    for name in ("directions", "bias", "threshold", "loadings", "mean", "std"):
        torch.testing.assert_close(getattr(ours, name), getattr(world, name), rtol=0, atol=1e-5)
    for name in ("parent", "scaled"):
        assert torch.equal(getattr(ours, name), getattr(world, name))
    same = [values.unsqueeze(0) == values.unsqueeze(1) for values in (ours.group, world.group)]
    grouped = ours.group >= 0
    assert torch.equal(grouped, world.group >= 0)
    assert torch.equal(same[0][grouped][:, grouped], same[1][grouped][:, grouped])


def test_its_thresholds_and_correlations_are_read(model: Any, world: CopulaWorld) -> None:
    generator = model.activation_generator
    torch.testing.assert_close(world.threshold, generator.correlation_thresholds, rtol=0, atol=1e-4)
    torch.testing.assert_close(world.own_share, generator.low_rank_correlation[1], rtol=0, atol=1e-6)


def standard_scores(ours: Tensor, theirs: Tensor) -> Tensor:
    """Standardised differences of column means; those of equal distributions are standard normal."""
    variance = (ours.var(0) + theirs.var(0)) / len(ours)
    return (ours.mean(0) - theirs.mean(0)) / variance.sqrt()


@pytest.mark.parametrize("moment", ["rate", "mean", "second"])
def test_features_have_the_same_moments(samples: tuple[Tensor, Tensor], moment: str) -> None:
    of = {"rate": lambda m: (m > 0).float(), "mean": lambda m: m, "second": lambda m: m.square()}[moment]
    scores = standard_scores(*map(of, samples))
    assert scores.std() == pytest.approx(1, abs=0.15)
    assert scores.abs().max() < 4.5


def test_pairs_of_features_are_on_together_as_often(samples: tuple[Tensor, Tensor]) -> None:
    """Hierarchy, exclusion and correlation in one: all pairs that are on together often enough to compare."""
    ours, theirs = ((sample > 0).float() for sample in samples)
    joint = [on.T @ on / NUM_TOKENS for on in (ours, theirs)]
    mean = (joint[0] + joint[1]) / 2
    first, second = torch.triu_indices(NUM, NUM, 1)
    often = mean[first, second] * NUM_TOKENS > 50
    first, second = first[often], second[often]
    p = mean[first, second]
    scores = (joint[0] - joint[1])[first, second] / (2 * p * (1 - p) / NUM_TOKENS).sqrt()
    assert len(scores) > 5000
    assert scores.std() == pytest.approx(1, abs=0.05)
    never = [int((values == 0).sum()) for values in joint]
    assert never[0] == pytest.approx(never[1], rel=0.05)  # excluded pairs, and rare ones


def test_activations_have_the_same_mean_and_covariance(model: Any, world: CopulaWorld) -> None:
    torch.manual_seed(1)
    ours, theirs = draw_copula(world, 1, 0, NUM_TOKENS).x, model.sample(NUM_TOKENS)
    assert standard_scores(ours, theirs).abs().max() < 4.5
    first, second = torch.triu_indices(D_IN, D_IN)
    products = [(x - theirs.mean(0))[:, first] * (x - theirs.mean(0))[:, second] for x in (ours, theirs)]
    scores = standard_scores(*products)
    assert scores.abs().max() < 4.5
    assert scores.std() < 1.3


def test_its_metrics_of_one_sae_are_ours(model: Any, world: CopulaWorld, sae_lens: ModuleType) -> None:
    """SAELens draws its own tokens: they are handed to our sums as it sampled them."""
    sae = sae_lens.StandardSAE(sae_lens.StandardSAEConfig(d_in=D_IN, d_sae=50))
    rng = torch.Generator().manual_seed(0)
    rows = world.directions[:50] + 0.2 * torch.randn(50, D_IN, generator=rng)
    sae.load_state_dict(sae.state_dict() | {"W_enc": rows.T, "W_dec": 0.5 * rows, "b_enc": torch.full((50,), -2.0)})
    batches: list[Tensor] = []

    def sample(num_tokens: int) -> Tensor:
        batches.append(model.activation_generator.sample(num_tokens))
        return batches[-1]

    evals = pytest.importorskip("sae_lens.synthetic.evals")
    generator = SimpleNamespace(sample=sample)
    theirs = evals.eval_sae_on_synthetic_data(sae, model.feature_dict, generator, num_samples=1500, batch_size=500)
    sums = SynthBenchSums(sae.W_dec.detach(), world.directions)
    for magnitudes in batches:
        token, feature = magnitudes.nonzero().unbind(1)
        x = model.feature_dict(magnitudes).detach()
        with torch.no_grad():
            acts = sae.encode(x)
            sums.add(CopulaTokens(x, Entries(token, feature, magnitudes[token, feature])), acts, sae.decode(acts))
    ours, names = sums.metrics(), {"l0": "sae_l0", "dead": "dead_latents"}
    for name in ("mcc", "uniqueness", "explained_variance", "shrinkage", "l0", "true_l0", "dead"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, names.get(name, name)), rel=1e-4)
    classes = theirs.classification
    expected = (classes.f1_score, classes.precision, classes.recall, classes.accuracy)
    assert (ours.f1, ours.precision, ours.recall, ours.accuracy) == pytest.approx(expected, rel=1e-4)
    assert 0.1 < ours.f1 < 0.9
