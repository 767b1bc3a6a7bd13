"""Geometry of small SAEs by brute force, and against baselines with a known difference."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.metrics.base import Measurement
from saepipe.evaluate.metrics.geometry.metric import Geometry
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.results.result_file import plain_value
from saepipe.evaluate.sae import reconstruction
from saepipe.evaluate.sae.subject import Subject

pytestmark = pytest.mark.quick

HOOK = "blocks.1.hook_resid_post"


def subject(sae: Any, fingerprint: str = "a", hook: str = HOOK) -> Subject:
    run: Any = SimpleNamespace(
        variant="by-hand", seed=0, fingerprint=fingerprint, hook=hook, cache_fingerprint="c" * 64, plain={}
    )
    return Subject(run, sae, {})


def without_model(testbed: Testbed, baseline: Subject | None = None) -> Testbed:
    def load() -> Any:
        raise AssertionError("geometry needs no model")

    return replace(testbed, load=load, baseline=baseline)


def measure(testbed: Testbed, *saes: Any, baseline: Subject | None = None, **settings: int) -> list[Measurement]:
    subjects = [sae if isinstance(sae, Subject) else subject(sae, str(k)) for k, sae in enumerate(saes)]
    results = Geometry(**settings).measure(subjects, without_model(testbed, baseline), Silent())
    json.dumps([[result.details, result.more, result.eval_config] for result in results], allow_nan=False)
    return results


def figures(measurement: Measurement) -> dict[str, Any]:
    return {key: plain_value(figure) for group in measurement.metrics.values() for key, figure in group.items()}


def copy_of(sae: Any, order: torch.Tensor, **changed: torch.Tensor) -> Any:
    """Returns the SAE with some parameters replaced, then its latents reordered."""
    params = {"W_enc": sae.W_enc, "b_enc": sae.b_enc, "W_dec": sae.W_dec} | changed
    return type(sae)(params["W_enc"][:, order], params["W_dec"][order], params["b_enc"][order], sae.b_dec)


def test_counts_and_pairs_by_brute_force(random_sae, testbed: Testbed) -> None:
    [result] = measure(testbed, random_sae, num_pairs=40)
    tokens = [
        (int(document), random_sae.encode(x))
        for batch in testbed.batches(10)
        for x, document in zip(batch.x[batch.keep], batch.documents[batch.keep], strict=True)
    ]
    assert result.counts == {"contexts": 10, "documents": testbed.num_documents(10), "tokens": len(tokens)}
    density = [sum(float(acts[j] > 0) for _, acts in tokens) / len(tokens) for j in range(24)]
    assert [entry["density"] for entry in result.details] == pytest.approx(density, abs=1e-10)
    assert len(result.more["pairs"]) == 40
    for pair in result.more["pairs"]:
        i, j = pair["i"], pair["j"]
        active_i, active_j = ([acts[k].item() > 0 for _, acts in tokens] for k in (i, j))
        both = sum(i_on and j_on for i_on, j_on in zip(active_i, active_j, strict=True))
        assert (pair["tokens_i"], pair["tokens_j"], pair["tokens_both"]) == (sum(active_i), sum(active_j), both)
        assert pair["j_given_i"] == pytest.approx(both / sum(active_i))
        assert pair["lift"] == pytest.approx(both * len(tokens) / (sum(active_i) * sum(active_j)))
        low, high = pair["intervals"]["lift"]
        assert low <= pair["lift"] <= high
        cosine = torch.cosine_similarity(random_sae.W_dec[i], random_sae.W_dec[j], dim=0)
        assert pair["cosine"] == pytest.approx(cosine.item(), abs=1e-6)


def test_figures_follow_from_the_latent_entries(random_sae, testbed: Testbed) -> None:
    [result] = measure(testbed, random_sae)
    values = figures(result)

    def column(key: str) -> np.ndarray:
        return np.array([entry[key] for entry in result.details if entry[key] is not None])

    density = column("density")
    assert values["mean_max_decoder_cosine"] == pytest.approx(column("max_decoder_cosine").mean())
    assert values["mean_encoder_decoder_cosine"] == pytest.approx(column("encoder_decoder_cosine").mean())
    assert values["frac_max_decoder_cosine_over_50"] == (column("max_decoder_cosine") > 0.5).sum() / 24
    assert values["mean_decoder_norm"] == pytest.approx(random_sae.W_dec.norm(dim=1).mean().item())
    assert values["frac_dead"] == (density == 0).mean() >= 1 / 24
    alive = np.array([entry["density"] > 0 for entry in result.details])
    rows = random_sae.W_dec.double().numpy()[alive]
    cosines = rows @ rows.T / np.outer(*[np.linalg.norm(rows, axis=1)] * 2)
    assert values["mean_abs_decoder_cosine"] == pytest.approx(np.abs(cosines[np.triu_indices(len(rows), 1)]).mean())
    assert values["frac_dense"] == (density > 0.1).mean()
    assert values["mean_log10_density"] == pytest.approx(np.log10(density[density > 0]).mean())
    lifts = [pair["lift"] for pair in result.more["pairs"] if pair["lift"] is not None]
    assert values["mean_pair_lift"] == pytest.approx(np.mean(lifts))
    for key, num in {"decoder_cosine": 23 * 22 // 2, "log10_density": (density > 0).sum(), "decoder_norm": 24}.items():
        assert sum(result.more["histograms"][key]["counts"]) == num


def test_a_latent_without_direction_or_activity_is_null(random_sae, testbed: Testbed) -> None:
    [result] = measure(testbed, random_sae)
    last = result.details[-1]
    assert (last["density"], last["decoder_norm"]) == (0, 0)
    assert last["max_decoder_cosine"] is last["encoder_decoder_cosine"] is last["nearest"] is None


def test_duplicates_are_active_together_and_a_dead_pair_has_no_lift(make_sae, testbed: Testbed) -> None:
    W_dec = torch.eye(16)[[0, 0, 1, 2, 2]]
    [result] = measure(testbed, make_sae(W_dec.T.clone(), W_dec, torch.tensor([0.0, 0.0, 0.0, 0.0, -1e6])), num_pairs=2)
    twins, dead = result.more["pairs"]
    assert (twins["i"], twins["j"], twins["j_given_i"], twins["i_given_j"]) == (0, 1, 1, 1)
    assert twins["lift"] == pytest.approx(result.counts["tokens"] / twins["tokens_i"])
    assert (dead["i"], dead["j"], dead["lift"], dead["tokens_both"]) == (3, 4, None, 0)
    assert "never active" in dead["undefined"]["lift"]
    values = figures(result)
    assert values["frac_max_decoder_cosine_over_90"] == 4 / 5
    assert (values["mean_pair_conditional"], values["mean_encoder_decoder_cosine"]) == (1, 1)


def test_a_dead_sae_has_undefined_figures(make_sae, testbed: Testbed) -> None:
    dead = make_sae(torch.eye(16), torch.eye(16), -1e6)
    values = figures(measure(testbed, dead, baseline=subject(dead, "b"))[0])
    assert values["frac_dead"] == 1
    undefined = {key for key, value in values.items() if value is None}
    assert {"mean_log10_density", "mean_pair_lift", "mean_matched_cosine", "change_pair_lift"} <= undefined
    assert "mean_abs_decoder_cosine" in undefined


def test_neither_batches_nor_chunks_matter(random_sae, testbed_of, monkeypatch: pytest.MonkeyPatch) -> None:
    other = copy_of(random_sae, torch.arange(24).flip(0))
    small, large = (measure(testbed_of(size), random_sae, other, baseline=subject(other, "1")) for size in (1, 7))
    monkeypatch.setattr(reconstruction, "MAX_HELD", 24 * 5)
    assert small == large == measure(testbed_of(10), random_sae, other, baseline=subject(other, "1"))


@pytest.mark.parametrize("among", [True, False])
def test_the_baseline_against_itself(random_sae, testbed: Testbed, among: bool) -> None:
    """Changes are exactly 0, although two latents have the same decoder row."""
    random_sae.W_dec[5] = random_sae.W_dec[3]
    [result] = measure(testbed, subject(random_sae, "a"), baseline=subject(random_sae, "a" if among else "b"))
    changes = result.metrics["against_baseline"]
    for key, figure in changes.items():
        assert plain_value(figure) == (0.0 if key.startswith("change") else 1.0), key
    for low, high in result.more["against_baseline"]["intervals_over_matched_latents_or_pairs"].values():
        assert low == high
    assert [entry["baseline"] for entry in result.details] == [*range(23), None]
    assert all(figure.low is None for figure in changes.values())  # the file has intervals over documents only


def test_a_permuted_copy_of_the_baseline(random_sae, testbed: Testbed) -> None:
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    [result] = measure(testbed, copy_of(random_sae, order), baseline=subject(random_sae, "b"))
    for key, figure in result.metrics["against_baseline"].items():
        assert plain_value(figure) == pytest.approx(0.0 if key.startswith("change") else 1.0, abs=1e-6), key
    assert [entry["baseline"] for entry in result.details] == [k if k != 23 else None for k in order.tolist()]
    assert result.more["against_baseline"]["histograms"] == {
        key: histogram["counts"] for key, histogram in result.more["histograms"].items()
    }


def test_changes_equal_the_edits(random_sae, testbed: Testbed) -> None:
    """Norms are doubled, encoder columns are set to the decoder rows, and biases are raised."""
    W_dec = random_sae.W_dec
    changed = copy_of(random_sae, torch.arange(24), W_dec=2 * W_dec, W_enc=W_dec.T, b_enc=random_sae.b_enc + 0.5)
    [base], [edited] = measure(testbed, random_sae), measure(testbed, changed, baseline=subject(random_sae, "b"))
    alive = [k for k in range(23) if base.details[k]["density"] and edited.details[k]["density"]]
    before, after = ([result.details[k] for k in alive] for result in (base, edited))
    actual = figures(edited)

    def change(key: str) -> float:
        return float(np.mean([new[key] - old[key] for new, old in zip(after, before, strict=True)]))

    log10 = [np.log10(new["density"] / old["density"]) for new, old in zip(after, before, strict=True)]
    assert actual["change_log10_density"] == pytest.approx(np.mean(log10))
    assert actual["change_decoder_norm"] == pytest.approx(change("decoder_norm"), abs=1e-6)
    assert actual["change_decoder_norm"] == pytest.approx(np.mean([old["decoder_norm"] for old in before]), abs=1e-6)
    assert actual["change_encoder_decoder_cosine"] == pytest.approx(change("encoder_decoder_cosine"), abs=1e-6)
    assert actual["change_max_decoder_cosine"] == pytest.approx(0, abs=1e-6)
    lifts = [(new["lift"], old["lift"]) for new, old in zip(edited.more["pairs"], base.more["pairs"], strict=True)]
    differences = [new - old for new, old in lifts if new is not None and old is not None]
    assert actual["change_pair_lift"] == pytest.approx(np.mean(differences))
    low, high = edited.more["against_baseline"]["intervals_over_matched_latents_or_pairs"]["change_log10_density"]
    assert low < actual["change_log10_density"] < high


def test_a_narrower_baseline_and_dead_latents(random_sae, make_sae, testbed: Testbed) -> None:
    """The baseline has every second latent. A latent that is dead in either SAE counts as unmatched."""
    keep = torch.arange(0, 24, 2)
    half = copy_of(random_sae, keep)
    [result] = measure(testbed, random_sae, baseline=subject(half, "b"))
    values, alive = figures(result), [entry["density"] > 0 for entry in result.details]
    assert values["frac_baseline_matched_over_90"] == 1
    assert values["frac_matched_over_90"] == sum(alive[k] for k in keep.tolist()) / sum(alive)
    silenced = copy_of(half, torch.arange(12), b_enc=torch.cat([torch.full((6,), -1e6), half.b_enc[6:]]))
    [result] = measure(testbed, random_sae, baseline=subject(silenced, "b"))
    assert figures(result)["frac_matched_over_90"] == sum(alive[k] for k in keep.tolist()[6:]) / sum(alive)


def test_one_pass_over_the_contexts_and_one_encoding_per_sae(random_sae, testbed: Testbed) -> None:
    num_encoded = []

    class Counting(type(random_sae)):  # type: ignore[misc]
        def encode(self, x: torch.Tensor, latents: torch.Tensor | None = None) -> torch.Tensor:
            num_encoded.append(len(x))
            return super().encode(x, latents)

    saes = [Counting(random_sae.W_enc, random_sae.W_dec, random_sae.b_enc) for _ in range(3)]
    result = measure(testbed, *saes, baseline=subject(saes[1], "1"))
    assert sum(num_encoded) == 3 * result[0].counts["tokens"]
    assert (testbed.passes.full, testbed.passes.lower, testbed.passes.upper) == (0, 0, 0)


def test_other_hooks_and_widths_are_refused(random_sae, make_sae, testbed: Testbed) -> None:
    with pytest.raises(ConfigError, match=r"at blocks\.2\.hook_resid_post"):
        measure(testbed, random_sae, baseline=subject(random_sae, hook="blocks.2.hook_resid_post"))
    with pytest.raises(ConfigError, match="reads d_in 9"):
        measure(testbed, random_sae, baseline=subject(make_sae(torch.randn(9, 4), torch.randn(4, 9))))


def test_activations_that_are_not_finite_are_refused(random_sae, testbed: Testbed) -> None:
    random_sae.b_enc[2] = torch.nan
    with pytest.raises(CorruptDataError, match="NaN"):
        measure(testbed, random_sae)


def test_every_shown_figure_exists(random_sae, testbed: Testbed) -> None:
    [result] = measure(testbed, random_sae, baseline=subject(random_sae, "b"))
    assert {*Geometry.shown} - {*figures(result)} == {"hedging_degree"}  # of widened SAEs alone
    assert asdict(result)["eval_config"]["num_pairs"] == 256
