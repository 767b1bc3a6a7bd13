"""Core metrics compared with closed forms and with direct float64 computations over all tokens at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.metrics.base import Measurement
from saepipe.evaluate.metrics.core.metric import Core
from saepipe.evaluate.stats.intervals import Estimate
from saepipe.harvest.decoder_layers import decoder_layers

pytestmark = pytest.mark.quick

D_IN = 16


def value(measurement: Measurement, key: str):
    groups = (*measurement.metrics.values(), measurement.extra)
    figure = next(group[key] for group in groups if key in group)
    return figure.value if isinstance(figure, Estimate) else figure


@pytest.fixture
def measure(testbed, subject_of) -> Callable[..., Measurement]:
    return lambda sae, testbed=testbed: Core().measure([subject_of(sae)], testbed, Silent())[0]


@pytest.fixture
def tokens(heldout) -> np.ndarray:
    """(num_tokens, d_in) float64: all kept held-out activations."""
    return heldout.x.double().numpy()[heldout.keep]


def test_a_mean_predictor_explains_nothing(measure, make_sae, tokens) -> None:
    mean = torch.from_numpy(tokens.mean(0)).float()
    result = measure(make_sae(torch.zeros(D_IN, 4), torch.zeros(4, D_IN), b_dec=mean))
    assert value(result, "explained_variance") == pytest.approx(0, abs=1e-12)
    assert value(result, "fvu") == pytest.approx(1, abs=1e-12)
    assert value(result, "explained_variance_legacy") == pytest.approx(0, abs=1e-5)
    assert value(result, "mse") == pytest.approx(tokens.var(0).sum(), rel=1e-12)
    assert value(result, "l0") == value(result, "l1") == value(result, "frac_alive") == 0


def test_an_identity_sae_changes_nothing(measure, make_sae) -> None:
    result = measure(make_sae(torch.eye(D_IN), torch.eye(D_IN), relu=False))
    for key in ("explained_variance", "explained_variance_legacy", "ce_loss_score", "kl_div_score"):
        assert value(result, key) == 1
    for key in ("mse", "fvu", "kl_div_with_sae", "delta_ce"):
        assert value(result, key) == 0
    for key in ("cossim", "l2_ratio", "relative_reconstruction_bias"):
        assert value(result, key) == pytest.approx(1, abs=1e-12)
    assert value(result, "ce_loss_with_sae") == value(result, "ce_loss_without_sae")
    assert value(result, "ce_loss_with_ablation") != value(result, "ce_loss_without_sae")


def test_a_zero_sae_equals_the_ablation(measure, make_sae) -> None:
    result = measure(make_sae(torch.zeros(D_IN, 4), torch.zeros(4, D_IN)))
    assert value(result, "ce_loss_with_sae") == value(result, "ce_loss_with_ablation")
    assert value(result, "kl_div_with_sae") == value(result, "kl_div_with_ablation") > 0
    assert value(result, "ce_loss_score") == value(result, "kl_div_score") == 0
    assert value(result, "cossim") == value(result, "l2_ratio") == 0


def test_undefined_figures_have_a_reason(measure, make_sae) -> None:
    result = measure(make_sae(torch.zeros(D_IN, 2), torch.zeros(2, D_IN)))
    bias = result.metrics["shrinkage"]["relative_reconstruction_bias"]
    assert isinstance(bias, Estimate)
    assert bias.value is None
    assert "orthogonal" in (bias.reason or "")
    assert value(result, "normalized_freq_over_1_percent") is None
    latent = result.details[0]
    assert latent["feature_density"] == 0
    assert latent["consistent_activation_heuristic"] is latent["max_decoder_cosine_sim"] is None


def test_reconstruction_against_numpy(measure, random_sae, tokens) -> None:
    result = measure(random_sae)
    x, acts = tokens, random_sae.encode(torch.from_numpy(tokens).float())
    x_hat = random_sae.decode(acts).double().numpy()
    acts = acts.double().numpy()
    error, norm_in, norm_out = ((x - x_hat) ** 2).sum(1), np.linalg.norm(x, axis=1), np.linalg.norm(x_hat, axis=1)
    expected = {
        "mse": error.mean(),
        "explained_variance": 1 - error.mean() / x.var(0).sum(),
        "fvu": error.mean() / x.var(0).sum(),
        "explained_variance_legacy": np.mean(1 - error / ((x - x.mean(0)) ** 2).sum(1)),
        "cossim": np.mean((x * x_hat).sum(1) / norm_in / norm_out),
        "l2_norm_in": norm_in.mean(),
        "l2_norm_out": norm_out.mean(),
        "l2_ratio": np.mean(norm_out / norm_in),
        "relative_reconstruction_bias": (norm_out**2).mean() / (x * x_hat).sum(1).mean(),
        "l0": (acts > 0).sum(1).mean(),
        "l1": acts.sum(1).mean(),
    }
    # The SAE runs in float32 on batches of other sizes here, which limits how closely x_hat agrees.
    assert {key: value(result, key) for key in expected} == pytest.approx(expected, rel=1e-6)


def test_latents_against_numpy(measure, random_sae, heldout, tokens) -> None:
    result = measure(random_sae)
    active = np.zeros((*heldout.keep.shape, 24), dtype=bool)
    active[heldout.keep] = (random_sae.encode(torch.from_numpy(tokens).float()) > 0).numpy()
    density = active[heldout.keep].mean(0)
    assert [latent["feature_density"] for latent in result.details] == pytest.approx(density, abs=1e-9)
    windows = active.any(1).sum(0)
    assert windows[-1] == 0
    for latent, total, count in zip(result.details, active.sum((0, 1)), windows, strict=True):
        expected = total / count if count else None
        assert latent["consistent_activation_heuristic"] == pytest.approx(expected, abs=1e-9)
    over = density[density > 0.1]
    assert value(result, "frac_alive") == pytest.approx((density > 0).mean())
    assert value(result, "freq_over_10_percent") == pytest.approx((density > 0.1).mean())
    assert value(result, "normalized_freq_over_10_percent") == pytest.approx(over.sum() / density.sum())


@torch.no_grad()
def test_predictions_against_the_hooked_full_forward(measure, model, heldout, random_sae, testbed) -> None:
    """CE and KL equal those of the whole model with its hook point overwritten at the same positions."""
    result = measure(random_sae)
    ids, keep = torch.from_numpy(heldout.contexts).long(), torch.from_numpy(heldout.keep)
    x = heldout.x.float()
    spliced, ablated = x.clone(), x.clone()
    spliced[keep] = random_sae.decode(random_sae.encode(x[keep]))
    ablated[keep] = 0.0
    clean = _forward_with(model, ids, x)
    scored = keep[:, :-1] & keep[:, 1:]
    expected = {}
    for name, at_hook in (("out_sae", x), ("_sae", spliced), ("_ablation", ablated)):
        logits = _forward_with(model, ids, at_hook)
        expected[f"ce_loss_with{name}"] = _ce(logits, ids)[scored].mean()
        if name != "out_sae":
            expected[f"kl_div_with{name}"] = _kl(clean, logits)[:, :-1][scored].mean()
    assert {key: value(result, key) for key in expected} == pytest.approx(_floats(expected), rel=1e-5)
    e = _floats(expected)
    assert value(result, "delta_ce") == pytest.approx(e["ce_loss_with_sae"] - e["ce_loss_without_sae"], rel=1e-4)
    recovered = (e["ce_loss_with_ablation"] - e["ce_loss_with_sae"]) / (
        e["ce_loss_with_ablation"] - e["ce_loss_without_sae"]
    )
    assert value(result, "ce_loss_score") == pytest.approx(recovered, rel=1e-4)
    kl_score = 1 - e["kl_div_with_sae"] / e["kl_div_with_ablation"]
    assert value(result, "kl_div_score") == pytest.approx(kl_score, rel=1e-4)
    assert (result.counts["scored"], result.counts["tokens"]) == (int(scored.sum()), int(keep.sum()))


def _forward_with(model, ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Runs the full forward with the output of layer 1 overwritten, all contexts in one batch."""
    handle = decoder_layers(model)[1].register_forward_hook(lambda *_: x)
    logits = model(input_ids=ids).logits.double()
    handle.remove()
    return logits


def _ce(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")


def _kl(clean: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    p = clean.softmax(-1)
    return (p * (p.log() - logits.softmax(-1).log())).sum(-1)


def _floats(tensors: dict[str, torch.Tensor]) -> dict[str, float]:
    return {key: float(tensor) for key, tensor in tensors.items()}


class Shrinking:
    """Elementwise SAE, whose output cannot depend on how tokens are batched."""

    d_sae = D_IN
    W_enc, W_dec, b_enc = torch.eye(D_IN), torch.eye(D_IN), torch.zeros(D_IN)

    def encode(self, x: torch.Tensor, latents: torch.Tensor | None = None) -> torch.Tensor:
        return (x - 0.1).relu()

    def decode(self, acts: torch.Tensor) -> torch.Tensor:
        return 0.9 * acts


def test_batches_do_not_change_the_figures(measure, testbed_of) -> None:
    results = [measure(Shrinking(), testbed_of(batch_size)) for batch_size in (1, 3, 10)]
    predictions = ("ce_loss", "kl_div", "delta_ce", "resume_gap")
    for group in results[0].metrics.values():
        for key in group:
            # The model's own float32 matmuls may round differently in other batches; the sums may not.
            rel = 1e-5 if key.startswith(predictions) else 1e-12
            assert value(results[1], key) == pytest.approx(value(results[0], key), rel=rel), key
            assert value(results[2], key) == pytest.approx(value(results[0], key), rel=rel), key
    assert results[0].details == results[1].details == results[2].details


def test_the_models_own_losses_are_computed_once(testbed, testbed_of, subject_of, model, random_sae, make_sae) -> None:
    """Ten contexts. Cold: clean, ablated, and two passes of one context for the gap; each call: clean, one per SAE."""
    lower: list[int] = []
    handle = decoder_layers(model)[0].register_forward_hook(lambda *_: lower.append(1))
    other = make_sae(torch.eye(D_IN), torch.eye(D_IN), relu=False)
    assert [testbed.kept_work.has(work.kind, work.key) for work in Core().works(testbed)] == [False]
    cold = Core().measure([subject_of(random_sae), subject_of(other)], testbed, Silent())
    assert (testbed.passes.upper, testbed.passes.full, len(lower)) == (10 * (2 + 1 + 2) + 1, 1, 1)
    assert [testbed.kept_work.has(work.kind, work.key) for work in Core().works(testbed)] == [True]
    warm = Core().measure([subject_of(random_sae)], testbed, Silent())
    assert (testbed.passes.upper, testbed.passes.full, len(lower)) == (10 * (5 + 2) + 1, 1, 1)
    handle.remove()
    assert warm == cold[:1]
    assert value(cold[1], "explained_variance") == 1
    [smaller] = Core(num_contexts=5).works(testbed)
    assert not testbed.kept_work.has(smaller.kind, smaller.key)


def test_live_activations_are_not_rounded(testbed, subject_of, random_sae, heldout) -> None:
    """Stored activations are rounded to bfloat16; live ones are not, so the resumed model equals the full model."""
    stored = Core().measure([subject_of(random_sae)], testbed, Silent())[0]
    live = Core().measure([subject_of(random_sae)], replace(testbed, live=True), Silent())[0]
    assert value(live, "resume_gap") == 0
    assert value(live, "l2_norm_in") != value(stored, "l2_norm_in")
    for key in ("l2_norm_in", "mse", "ce_loss_with_sae", "ce_loss_with_ablation", "kl_div_with_sae"):
        assert value(live, key) == pytest.approx(value(stored, key), rel=0.02), key


def test_fewer_contexts(testbed, subject_of, random_sae, heldout) -> None:
    result = Core(num_contexts=3).measure([subject_of(random_sae)], testbed, Silent())[0]
    assert (result.counts["contexts"], result.counts["tokens"]) == (3, heldout.keep[:3].sum())
    assert value(result, "total_tokens_eval_reconstruction") == 3 * 20


def test_intervals_contain_their_values(measure, random_sae) -> None:
    result = measure(random_sae)
    for figure in (result.metrics["reconstruction_quality"]["explained_variance"], result.extra["delta_ce"]):
        assert isinstance(figure, Estimate)
        assert figure.low < figure.value < figure.high


def test_a_broken_sae_is_named(measure, make_sae) -> None:
    with pytest.raises(CorruptDataError, match=r"by-hand/seed-0.*NaN or Inf"):
        measure(make_sae(torch.zeros(D_IN, 2), torch.zeros(2, D_IN), b_dec=torch.nan))


def test_another_model_is_detected(testbed, heldout, testbed_of) -> None:
    assert abs(testbed.upper_layers_gap()) < 0.02
    shuffled = type(heldout)(heldout.contexts, heldout.documents, heldout.keep, heldout.x.flip(0))
    testbed.cache.heldout = shuffled
    with pytest.raises(CorruptDataError, match="nats off"):
        testbed.upper_layers_gap()


def test_settings_of_mode_reference_are_refused_in_mode_fixed(testbed, subject_of, random_sae) -> None:
    for settings in ({"reconstruction_batches": 1}, {"exclude_special_tokens": False}):
        with pytest.raises(ConfigError, match="apply to mode: reference only"):
            Core(**settings).measure([subject_of(random_sae)], testbed, Silent())


def test_contexts_without_ordinary_tokens_are_refused(testbed, heldout, subject_of, random_sae) -> None:
    testbed.cache.heldout = type(heldout)(heldout.contexts, heldout.documents, heldout.keep & False, heldout.x)
    with pytest.raises(ConfigError, match="only special tokens"):
        Core().measure([subject_of(random_sae)], testbed, Silent())
