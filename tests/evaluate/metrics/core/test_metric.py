"""Core metrics against closed forms and against direct float64 computations over all tokens at once."""

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
from saepipe.harvest.hooks import decoder_layers

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
    found = measure(make_sae(torch.zeros(D_IN, 4), torch.zeros(4, D_IN), b_dec=mean))
    assert value(found, "explained_variance") == pytest.approx(0, abs=1e-12)
    assert value(found, "fvu") == pytest.approx(1, abs=1e-12)
    assert value(found, "explained_variance_legacy") == pytest.approx(0, abs=1e-5)
    assert value(found, "mse") == pytest.approx(tokens.var(0).sum(), rel=1e-12)
    assert value(found, "l0") == value(found, "l1") == value(found, "frac_alive") == 0


def test_an_identity_changes_nothing(measure, make_sae) -> None:
    found = measure(make_sae(torch.eye(D_IN), torch.eye(D_IN), relu=False))
    for key in ("explained_variance", "explained_variance_legacy", "ce_loss_score", "kl_div_score"):
        assert value(found, key) == 1
    for key in ("mse", "fvu", "kl_div_with_sae", "delta_ce"):
        assert value(found, key) == 0
    for key in ("cossim", "l2_ratio", "relative_reconstruction_bias"):
        assert value(found, key) == pytest.approx(1, abs=1e-12)
    assert value(found, "ce_loss_with_sae") == value(found, "ce_loss_without_sae")
    assert value(found, "ce_loss_with_ablation") != value(found, "ce_loss_without_sae")


def test_zeros_are_the_ablation(measure, make_sae) -> None:
    found = measure(make_sae(torch.zeros(D_IN, 4), torch.zeros(4, D_IN)))
    assert value(found, "ce_loss_with_sae") == value(found, "ce_loss_with_ablation")
    assert value(found, "kl_div_with_sae") == value(found, "kl_div_with_ablation") > 0
    assert value(found, "ce_loss_score") == value(found, "kl_div_score") == 0
    assert value(found, "cossim") == value(found, "l2_ratio") == 0


def test_what_has_no_number_has_a_reason(measure, make_sae) -> None:
    found = measure(make_sae(torch.zeros(D_IN, 2), torch.zeros(2, D_IN)))
    bias = found.metrics["shrinkage"]["relative_reconstruction_bias"]
    assert isinstance(bias, Estimate)
    assert bias.value is None
    assert "orthogonal" in (bias.reason or "")
    assert value(found, "normalized_freq_over_1_percent") is None
    latent = found.details[0]
    assert latent["feature_density"] == 0
    assert latent["consistent_activation_heuristic"] is latent["max_decoder_cosine_sim"] is None


def test_reconstruction_against_numpy(measure, random_sae, tokens) -> None:
    found = measure(random_sae)
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
    # The SAE runs in float32 on batches of other sizes here, so that is how closely x_hat agrees.
    assert {key: value(found, key) for key in expected} == pytest.approx(expected, rel=1e-6)


def test_latents_against_numpy(measure, random_sae, heldout, tokens) -> None:
    found = measure(random_sae)
    active = np.zeros((*heldout.keep.shape, 24), dtype=bool)
    active[heldout.keep] = (random_sae.encode(torch.from_numpy(tokens).float()) > 0).numpy()
    density = active[heldout.keep].mean(0)
    assert [latent["feature_density"] for latent in found.details] == pytest.approx(density, abs=1e-9)
    windows = active.any(1).sum(0)
    assert windows[-1] == 0
    for latent, total, count in zip(found.details, active.sum((0, 1)), windows, strict=True):
        expected = total / count if count else None
        assert latent["consistent_activation_heuristic"] == pytest.approx(expected, abs=1e-9)
    over = density[density > 0.1]
    assert value(found, "frac_alive") == pytest.approx((density > 0).mean())
    assert value(found, "freq_over_10_percent") == pytest.approx((density > 0.1).mean())
    assert value(found, "normalized_freq_over_10_percent") == pytest.approx(over.sum() / density.sum())


@torch.no_grad()
def test_predictions_against_the_hooked_full_forward(measure, model, heldout, random_sae, testbed) -> None:
    """The same CE and KL from the whole model, its hook point overwritten at the same positions."""
    found = measure(random_sae)
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
    assert {key: value(found, key) for key in expected} == pytest.approx(_floats(expected), rel=1e-5)
    e = _floats(expected)
    assert value(found, "delta_ce") == pytest.approx(e["ce_loss_with_sae"] - e["ce_loss_without_sae"], rel=1e-4)
    recovered = (e["ce_loss_with_ablation"] - e["ce_loss_with_sae"]) / (
        e["ce_loss_with_ablation"] - e["ce_loss_without_sae"]
    )
    assert value(found, "ce_loss_score") == pytest.approx(recovered, rel=1e-4)
    assert value(found, "kl_div_score") == pytest.approx(1 - e["kl_div_with_sae"] / e["kl_div_with_ablation"], rel=1e-4)
    assert (found.counts["scored"], found.counts["tokens"]) == (int(scored.sum()), int(keep.sum()))


def _forward_with(model, ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The full forward with the output of layer 1 overwritten, all contexts in one batch."""
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
    """Works on each number alone, so that its output cannot depend on how tokens are batched."""

    d_sae = D_IN
    W_enc, W_dec, b_enc = torch.eye(D_IN), torch.eye(D_IN), torch.zeros(D_IN)

    def encode(self, x: torch.Tensor, latents: torch.Tensor | None = None) -> torch.Tensor:
        return (x - 0.1).relu()

    def decode(self, acts: torch.Tensor) -> torch.Tensor:
        return 0.9 * acts


def test_batches_do_not_change_the_figures(measure, testbed_of) -> None:
    found = [measure(Shrinking(), testbed_of(batch_size)) for batch_size in (1, 3, 10)]
    predictions = ("ce_loss", "kl_div", "delta_ce", "resume_gap")
    for group in found[0].metrics.values():
        for key in group:
            # The model's own float32 matmuls may round otherwise in other batches; the sums may not.
            rel = 1e-5 if key.startswith(predictions) else 1e-12
            assert value(found[1], key) == pytest.approx(value(found[0], key), rel=rel), key
            assert value(found[2], key) == pytest.approx(value(found[0], key), rel=rel), key
    assert found[0].details == found[1].details == found[2].details


def test_the_models_own_losses_are_made_once(testbed, testbed_of, subject_of, model, random_sae, make_sae) -> None:
    """Ten contexts. Cold: clean and ablated, and two of one context for the gap; each call: clean, and one an SAE."""
    lower: list[int] = []
    handle = decoder_layers(model)[0].register_forward_hook(lambda *_: lower.append(1))
    other = make_sae(torch.eye(D_IN), torch.eye(D_IN), relu=False)
    assert [testbed.artifacts.has(work.kind, work.key) for work in Core().works(testbed)] == [False]
    cold = Core().measure([subject_of(random_sae), subject_of(other)], testbed, Silent())
    assert (testbed.passes.upper, testbed.passes.full, len(lower)) == (10 * (2 + 1 + 2) + 1, 1, 1)
    assert [testbed.artifacts.has(work.kind, work.key) for work in Core().works(testbed)] == [True]
    warm = Core().measure([subject_of(random_sae)], testbed, Silent())
    assert (testbed.passes.upper, testbed.passes.full, len(lower)) == (10 * (5 + 2) + 1, 1, 1)
    handle.remove()
    assert warm == cold[:1]
    assert value(cold[1], "explained_variance") == 1
    [smaller] = Core(num_contexts=5).works(testbed)
    assert not testbed.artifacts.has(smaller.kind, smaller.key)


def test_live_activations_are_the_models(testbed, subject_of, random_sae, heldout) -> None:
    """Stored ones are rounded to bfloat16; with live ones nothing is, and the resumed model is the model."""
    stored = Core().measure([subject_of(random_sae)], testbed, Silent())[0]
    live = Core().measure([subject_of(random_sae)], replace(testbed, live=True), Silent())[0]
    assert value(live, "resume_gap") == 0
    assert value(live, "l2_norm_in") != value(stored, "l2_norm_in")
    for key in ("l2_norm_in", "mse", "ce_loss_with_sae", "ce_loss_with_ablation", "kl_div_with_sae"):
        assert value(live, key) == pytest.approx(value(stored, key), rel=0.02), key


def test_fewer_contexts(testbed, subject_of, random_sae, heldout) -> None:
    found = Core(num_contexts=3).measure([subject_of(random_sae)], testbed, Silent())[0]
    assert (found.counts["contexts"], found.counts["tokens"]) == (3, heldout.keep[:3].sum())
    assert value(found, "total_tokens_eval_reconstruction") == 3 * 20


def test_intervals_hold_their_values(measure, random_sae) -> None:
    found = measure(random_sae)
    for figure in (found.metrics["reconstruction_quality"]["explained_variance"], found.extra["delta_ce"]):
        assert isinstance(figure, Estimate)
        assert figure.low < figure.value < figure.high


def test_a_broken_sae_is_named(measure, make_sae) -> None:
    with pytest.raises(CorruptDataError, match=r"by-hand/seed-0.*NaN or Inf"):
        measure(make_sae(torch.zeros(D_IN, 2), torch.zeros(2, D_IN), b_dec=torch.nan))


def test_another_model_is_noticed(testbed, heldout, testbed_of) -> None:
    assert abs(testbed.resume_gap()) < 0.02
    shuffled = type(heldout)(heldout.contexts, heldout.documents, heldout.keep, heldout.x.flip(0))
    testbed.cache.heldout = shuffled
    with pytest.raises(CorruptDataError, match="nats off"):
        testbed.resume_gap()


def test_settings_of_the_other_mode_are_refused(testbed, subject_of, random_sae) -> None:
    for settings in ({"reconstruction_batches": 1}, {"exclude_special_tokens": False}):
        with pytest.raises(ConfigError, match="mode: reference"):
            Core(**settings).measure([subject_of(random_sae)], testbed, Silent())


def test_contexts_without_a_token_to_keep(testbed, heldout, subject_of, random_sae) -> None:
    testbed.cache.heldout = type(heldout)(heldout.contexts, heldout.documents, heldout.keep & False, heldout.x)
    with pytest.raises(ConfigError, match="special tokens only"):
        Core().measure([subject_of(random_sae)], testbed, Silent())
