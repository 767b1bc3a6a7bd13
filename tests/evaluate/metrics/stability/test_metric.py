"""Stability of SAEs whose agreement is known: copies, strangers, half of each, and the figures by plain numpy."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch.nn.functional import normalize

from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.metrics.base import Measurement
from saepipe.evaluate.metrics.stability.metric import Stability
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.results.result_file import plain_value
from saepipe.evaluate.sae.subject import Subject

pytestmark = pytest.mark.quick

D_IN, D_SAE = 16, 24


def random_sae(make_sae: Any, seed: int, num: int = D_SAE) -> Any:
    """Returns ReLU latents whose encoder columns lie near their decoder rows."""
    rng = torch.Generator().manual_seed(seed)
    W_dec = normalize(torch.randn(num, D_IN, generator=rng), dim=1)
    W_enc = W_dec.T + 0.3 * torch.randn(D_IN, num, generator=rng)
    return make_sae(W_enc, W_dec, 0.2 * torch.randn(num, generator=rng))


def permuted(sae: Any, seed: int) -> Any:
    order = torch.randperm(sae.d_sae, generator=torch.Generator().manual_seed(seed))
    return type(sae)(sae.W_enc[:, order], sae.W_dec[order], sae.b_enc[order])


def mixed(ours: Any, theirs: Any, num: int) -> Any:
    """Returns `num` latents of one SAE beside the last ones of the other."""
    parts = zip((ours.W_enc.T, ours.W_dec, ours.b_enc), (theirs.W_enc.T, theirs.W_dec, theirs.b_enc), strict=True)
    W_enc, W_dec, b_enc = (torch.cat([a[:num], b[num:]]) for a, b in parts)
    return type(ours)(W_enc.T, W_dec, b_enc)


def subject(sae: Any, seed: int, variant: str = "l1", fingerprint: str | None = None) -> Subject:
    settings = {"sae": {"name": "relu"}, "penalties": variant, "seed": seed, "data_seed": 0}
    run: Any = SimpleNamespace(
        variant=variant,
        seed=seed,
        fingerprint=fingerprint or f"{variant}-{seed}",
        cache_fingerprint="c",
        settings=settings,
    )
    return Subject(run, sae, {})


def measure(testbed: Testbed, *saes: Any, **settings: int) -> list[Measurement]:
    """Measures SAEs, which are seeds 0, 1, ... of one variant, without a model."""

    def load() -> Any:
        raise AssertionError("stability needs no model")

    subjects = [sae if isinstance(sae, Subject) else subject(sae, seed) for seed, sae in enumerate(saes)]
    results = Stability(**settings).measure(subjects, replace(testbed, load=load), Silent())
    json.dumps([[result.details, result.more, result.warnings] for result in results], allow_nan=False)
    return results


def values(measurement: Measurement) -> dict[str, Any]:
    groups = [*measurement.metrics.values(), measurement.extra]
    return {key: plain_value(figure) for group in groups for key, figure in group.items()}


def kept_rows(testbed: Testbed) -> torch.Tensor:
    return torch.cat([batch.x[batch.keep] for batch in testbed.batches(10)])


@pytest.mark.parametrize("max_assigned", [4096, 3])
def test_copies_agree_entirely(make_sae, testbed: Testbed, max_assigned: int) -> None:
    """A copy, and copies in another order; also where the matching is a bound."""
    sae = random_sae(make_sae, 0)
    results = measure(testbed, sae, permuted(sae, 1), permuted(sae, 2), max_assigned=max_assigned)
    for found in map(values, results):
        for key in ("pw_mcc", "pw_mcc_encoder", "pw_mcc_activation"):
            same = [found[key], found[f"{key}_weighted"], found[f"{key}_upper"]]
            assert same == pytest.approx([1, 1, 1], abs=1e-6), key
        assert found["frac_in_all_seeds_over_90"] == found["frac_in_all_seeds_over_70_weighted"] == 1
        assert found["pw_mcc_above_flipped"] > 0.3
    assert not any(result.warnings for result in results)


def test_strangers_agree_by_chance(make_sae, testbed: Testbed) -> None:
    """Independent dictionaries are as close to each other as to flipped ones, and the metric says so."""
    results = measure(testbed, *(random_sae(make_sae, seed) for seed in range(5)), num_draws=8)
    low, high = results[0].more["over_seeds"]["pw_mcc_above_flipped"]["interval"]
    assert low < 0 < high
    assert abs(values(results[0])["pw_mcc_above_flipped"]) < 0.03
    assert values(results[0])["frac_in_all_seeds_over_90"] == 0
    assert any("agree no more than by chance" in warning for result in results for warning in result.warnings)


def test_half_shared_dictionaries_are_half_found(make_sae, testbed: Testbed) -> None:
    """One other seed shares three quarters of the latents, the other half of them: half are in both."""
    first, half = random_sae(make_sae, 0), D_SAE // 2
    saes = [first, *(mixed(first, random_sae(make_sae, 1 + k), num) for k, num in enumerate((18, half)))]
    [result, *_] = measure(testbed, *saes)
    density = np.array([entry["density"] for entry in result.details])
    share = (density[:half] > 0).sum() / (density > 0).sum()
    assert 0.4 < share < 0.6
    found = values(result)
    assert found["frac_in_all_seeds_over_90"] == pytest.approx(share)
    assert found["frac_in_all_seeds_over_90_weighted"] == pytest.approx(density[:half].sum() / density.sum())
    assert found["frac_in_all_seeds_over_90_above_flipped"] == pytest.approx(share)
    assert [entry["least_decoder_cosine"] for entry in result.details[:half] if entry["density"]] == pytest.approx(
        [1] * (density[:half] > 0).sum()
    )


def test_figures_by_plain_numpy(make_sae, testbed: Testbed) -> None:
    """Decoder, encoder and correlations over all kept tokens, each assigned by scipy on its own."""
    saes = [random_sae(make_sae, seed) for seed in (3, 4, 5)]
    x = kept_rows(testbed)
    acts = [sae.encode(x).double().numpy() for sae in saes]
    alive = [of_sae.any(0) for of_sae in acts]
    acts = [of_sae[:, on] for of_sae, on in zip(acts, alive, strict=True)]
    density = [(of_sae > 0).mean(0) for of_sae in acts]

    def pair(i: int, j: int, kind: str) -> tuple[float, float]:
        if kind == "activation":
            scores = np.corrcoef(acts[i].T, acts[j].T)[: acts[i].shape[1], acts[i].shape[1] :]
        else:
            rows = [sae.W_dec if kind == "decoder" else sae.W_enc.T for sae in saes]
            a, b = (normalize(rows[k].double(), dim=1).numpy()[alive[k]] for k in (i, j))
            scores = a @ b.T
        row, column = linear_sum_assignment(-scores)
        weights = density[i][row] + density[j][column]
        return scores[row, column].mean(), np.average(scores[row, column], weights=weights)

    results = measure(testbed, *saes)
    for kind, key in (("decoder", "pw_mcc"), ("encoder", "pw_mcc_encoder"), ("activation", "pw_mcc_activation")):
        pairs = [pair(0, 1, kind), pair(0, 2, kind)]
        plain, weighted = np.mean(pairs, axis=0)
        assert values(results[0])[key] == pytest.approx(plain, abs=1e-6)
        assert values(results[0])[f"{key}_weighted"] == pytest.approx(weighted, abs=1e-6)
        assert [other[key] for other in results[0].more["pairs"]] == pytest.approx([p for p, _ in pairs], abs=1e-6)
        over_pairs = np.mean([*(p for p, _ in pairs), pair(1, 2, kind)[0]])
        assert results[2].more["over_seeds"][key]["mean"] == pytest.approx(over_pairs, abs=1e-6)


def test_dead_latents_are_left_out_and_counted(make_sae, testbed: Testbed) -> None:
    sae = random_sae(make_sae, 0)
    sae.b_enc = sae.b_enc.clone()
    sae.b_enc[[2, 7, 9]] = -1e6
    [result, _] = measure(testbed, sae, permuted(sae, 1))
    assert result.counts["dead"] == 24 - result.counts["alive"] >= 3
    assert values(result)["pw_mcc"] == pytest.approx(1)
    assert [result.details[k]["least_decoder_cosine"] for k in (2, 7, 9)] == [None] * 3


def test_seeds_of_other_variants_and_repeated_seeds_are_no_siblings(make_sae, testbed: Testbed) -> None:
    first, second, third = (random_sae(make_sae, seed) for seed in range(3))
    subjects = [
        subject(first, 0),
        subject(first, 0, fingerprint="z"),  # the same seed, made twice
        subject(second, 1),
        subject(third, 1, variant="topk"),
    ]
    ours, again, other, alone = measure(testbed, *subjects)
    assert [len(result.more.get("pairs", ())) for result in (ours, again, other, alone)] == [1, 1, 1, 0]
    assert values(ours)["pw_mcc"] == values(again)["pw_mcc"] == values(other)["pw_mcc"] < 0.9
    assert set(values(alone).values()) == {None}
    reason = alone.metrics["decoder"]["pw_mcc"].reason
    assert reason == "no other seed of topk was evaluated with it; evaluate all seeds in one call"


def test_a_dead_sae_leaves_no_figures(make_sae, testbed: Testbed) -> None:
    dead = make_sae(torch.eye(16), torch.eye(16), -1e6)
    for result in measure(testbed, random_sae(make_sae, 0), dead):
        assert set(values(result).values()) == {None}
        assert result.metrics["decoder"]["pw_mcc"].reason == "no latent of l1/seed-1 was active"


def test_neither_batches_nor_the_order_of_runs_matter(make_sae, testbed_of) -> None:
    subjects = [subject(random_sae(make_sae, seed), seed) for seed in range(3)]
    small = measure(testbed_of(1), *subjects)
    large = measure(testbed_of(10), *reversed(subjects))
    for one, other in zip(small, reversed(large), strict=True):
        assert values(one) == pytest.approx(values(other), abs=1e-5)


def test_activations_that_are_not_finite_are_refused(make_sae, testbed: Testbed) -> None:
    sae = random_sae(make_sae, 0)
    sae.b_enc = torch.full((24,), torch.nan)
    with pytest.raises(CorruptDataError, match="NaN"):
        measure(testbed, sae, random_sae(make_sae, 1))


def test_text_of_special_tokens_alone_is_refused(make_sae, testbed: Testbed) -> None:
    heldout = testbed.cache.heldout
    bare: Any = SimpleNamespace(**vars(testbed.cache) | {"heldout": replace(heldout, keep=heldout.keep & False)})
    with pytest.raises(ConfigError, match="only special tokens"):
        measure(replace(testbed, cache=bare), random_sae(make_sae, 0), random_sae(make_sae, 1))


def test_every_shown_figure_exists(make_sae, testbed: Testbed) -> None:
    sae = random_sae(make_sae, 0)
    [together, _], [alone] = measure(testbed, sae, random_sae(make_sae, 1)), measure(testbed, sae)
    assert set(Stability.shown) <= values(together).keys() == values(alone).keys()
