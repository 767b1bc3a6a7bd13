"""Mode reference compared with section 1 of SAEBench 0.6.0, written out in plain loops, faults included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy

from helpers.result_schemas import check
from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.metrics.base import Measurement
from saepipe.evaluate.metrics.core import saebench_formulas as saebench
from saepipe.evaluate.metrics.core.metric import Core
from saepipe.evaluate.model.next_token import predict_as_saebench
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.results.result_file import Request, envelope
from saepipe.evaluate.stats.intervals import Estimate
from saepipe.harvest.decoder_layers import decoder_layers

pytestmark = pytest.mark.quick

PAD, EOS, BOS = 0, 1, 2
BATCH, SCORED = 3, 6
"""Ten contexts: two batches of reconstruction, then one batch of three and a last one of one."""
D_IN = 16


@pytest.fixture
def reference_testbed(testbed_of, heldout) -> Testbed:
    """Replaces some ordinary tokens of the shared contexts by EOS, which the cache keeps and SAEBench ignores."""
    contexts = heldout.contexts.copy()
    contexts[::2, 5] = EOS
    testbed = testbed_of(BATCH)
    testbed.cache.heldout = replace(heldout, contexts=contexts)
    tokenizer: Any = SimpleNamespace(pad_token_id=PAD, eos_token_id=EOS, bos_token_id=BOS)
    lm = replace(testbed.load(), tokenizer=tokenizer)
    return replace(testbed, load=lambda: lm, mode="reference", live=True)


@pytest.fixture
def measure(reference_testbed, subject_of) -> Callable[..., Measurement]:
    def with_settings(sae: Any, **settings: Any) -> Measurement:
        core = Core(reconstruction_batches=2, **settings)
        return core.measure([subject_of(sae)], reference_testbed, Silent())[0]

    return with_settings


@pytest.fixture
def ids(reference_testbed) -> torch.Tensor:
    return torch.from_numpy(reference_testbed.cache.heldout.contexts).long()


@pytest.fixture
def keep(ids) -> torch.Tensor:
    return (ids != PAD) & (ids != EOS) & (ids != BOS)


@torch.no_grad()
def hooked(model, ids: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Returns logits of the whole model with the output of layer 1 changed."""
    handle = decoder_layers(model)[1].register_forward_hook(lambda _, __, x: change(x))
    logits = model(input_ids=ids).logits
    handle.remove()
    return logits


def activations(model, ids: torch.Tensor) -> torch.Tensor:
    captured: list[torch.Tensor] = []
    hooked(model, ids, lambda x: captured.append(x) or x)
    return captured[0]


def ce(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")


def kl(clean: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    p = clean.softmax(-1)
    return (p * (p.log() - logits.softmax(-1).log())).sum(-1)


def plain(figure: Any) -> Any:
    return figure.value if isinstance(figure, Estimate) else figure


def figures(measurement: Measurement) -> dict[str, Any]:
    return {key: plain(figure) for group in measurement.metrics.values() for key, figure in group.items()}


@pytest.mark.parametrize("exclude", [True, False])
def test_losses_of_the_model(exclude: bool, measure, model, random_sae, ids, keep) -> None:
    """Losses equal the full forward with hooks over the first two batches; zeros are at every position, BOS too."""
    actual = figures(measure(random_sae, exclude_special_tokens=exclude))
    ids, keep = ids[:SCORED], keep[:SCORED]
    at = (keep if exclude else torch.ones_like(keep))[..., None]
    clean = hooked(model, ids, lambda x: x)
    spliced = hooked(model, ids, lambda x: torch.where(at, random_sae.decode(random_sae.encode(x)), x))
    zeros = hooked(model, ids, torch.zeros_like)
    kept = keep[:, :-1]
    e = {
        "ce_loss_without_sae": ce(clean, ids)[kept].mean(),
        "ce_loss_with_sae": ce(spliced, ids)[kept].mean(),
        "ce_loss_with_ablation": ce(zeros, ids)[kept].mean(),
        "kl_div_with_sae": kl(clean, spliced)[keep].mean(),
        "kl_div_with_ablation": kl(clean, zeros)[keep].mean(),
    }
    harm = e["ce_loss_with_ablation"] - e["ce_loss_without_sae"]
    e["ce_loss_score"] = (e["ce_loss_with_ablation"] - e["ce_loss_with_sae"]) / harm
    e["kl_div_score"] = (e["kl_div_with_ablation"] - e["kl_div_with_sae"]) / e["kl_div_with_ablation"]
    expected = {key: float(value) for key, value in e.items()}
    assert {key: actual[key] for key in expected} == pytest.approx(expected, rel=1e-4)


def test_figures_of_activations(measure, model, make_sae, random_sae, ids, keep) -> None:
    """Figures equal section 1.4 line by line over the last two batches, with an SAE that has negative activations."""
    sae = make_sae(random_sae.W_enc, random_sae.W_dec, random_sae.b_enc, random_sae.b_dec, relu=False)
    result = measure(sae)
    kept: dict[str, list[Any]] = {name: [] for name in ("x", "x_hat", "f", "mse", "legacy", "R", "S", "q", "bias")}
    for start, stop in ((6, 9), (9, 10)):
        x = activations(model, ids[start:stop])[keep[start:stop]]
        f = sae.encode(x)
        x_hat = sae.decode(f)
        error = ((x - x_hat) ** 2).sum(1)
        kept["x"].append(x), kept["x_hat"].append(x_hat), kept["f"].append(f)
        kept["mse"].append(error / len(x))
        kept["legacy"].append(1 - error / ((x - x.mean(0)) ** 2).sum(1))
        kept["R"].append(error.mean())
        kept["S"].append((x**2).sum(1).mean())
        kept["q"].append((x**2).mean(0))
        kept["bias"].append((x_hat.norm(dim=1) ** 2).mean() / (x * x_hat).sum(1).mean())
    x, x_hat, f, mse, legacy, q = (torch.cat(kept[name]) for name in ("x", "x_hat", "f", "mse", "legacy", "q"))
    R, S, bias = (torch.stack(kept[name]).mean() for name in ("R", "S", "bias"))
    expected = {
        "mse": mse.mean(),
        "explained_variance": 1 - R / (S - q.mean() ** 2),
        "explained_variance_legacy": legacy.mean(),
        "cossim": cosine_similarity(x, x_hat).mean(),
        "l2_norm_in": x.norm(dim=1).mean(),
        "l2_norm_out": x_hat.norm(dim=1).mean(),
        "l2_ratio": (x_hat.norm(dim=1) / x.norm(dim=1)).mean(),
        "relative_reconstruction_bias": bias,
        "l0": (f != 0).sum(1).float().mean(),
        "l1": f.sum(1).mean(),
        "total_tokens_eval_reconstruction": 6 * 20,
        "total_tokens_eval_sparsity_variance": 4 * 20,
        "frac_alive": ((f > 0).any(0)).float().mean(),
    }
    actual = figures(result)
    assert {key: actual[key] for key in expected} == pytest.approx({k: float(v) for k, v in expected.items()}, rel=1e-4)
    assert actual["l1"] < 0 < (f < 0).sum()
    density = (f > 0).float().mean(0)
    assert [latent["feature_density"] for latent in result.details] == pytest.approx(density.tolist(), abs=1e-6)
    assert result.counts == {"reconstruction_contexts": 6, "contexts": 4, "tokens": int(keep[6:].sum())}


def test_nan_becomes_minus_one(measure, make_sae) -> None:
    """An SAE that returns 0: no cosine, and 0/0 in the bias; dead latents; decoder rows without a direction."""
    result = measure(make_sae(torch.eye(D_IN), torch.zeros(D_IN, D_IN), b_enc=-1e6))
    actual = figures(result)
    assert actual["cossim"] == actual["relative_reconstruction_bias"] == -1
    assert "NaN" in result.metrics["reconstruction_quality"]["cossim"].reason
    assert actual["normalized_freq_over_1_percent"] == 0
    assert actual["average_max_decoder_cosine_sim"] == 0
    latent = result.details[0]
    assert (latent["consistent_activation_heuristic"], latent["encoder_decoder_cosine_sim"]) == (-1, -1)
    assert (latent["feature_density"], latent["max_decoder_cosine_sim"]) == (0, 0)


def test_the_result_file_follows_saebenchs_schema(reference_testbed, subject_of, make_sae) -> None:
    """There is no null where SAEBench has a number; -1 has a reason."""
    subject = subject_of(make_sae(torch.eye(D_IN), torch.zeros(D_IN, D_IN), b_enc=-1e6))
    subject.run.data_seed = None
    core = Core()
    request = Request(
        run="r",
        cache="c",
        hook=reference_testbed.hook,
        metric=core.to_dict(),
        metric_version=core.version,
        batch_size=BATCH,
        dtype="float32",
        mode="reference",
        activations="live",
        baseline=None,
        works="w",
    )
    measurement = core.measure([subject], reference_testbed, Silent())[0]
    contents = envelope(measurement, request, core, subject, reference_testbed, "an-id")
    check(contents)
    assert None not in [value for group in contents["eval_result_metrics"].values() for value in group.values()]
    assert None not in [value for latent in contents["eval_result_details"] for value in latent.values()]
    assert set(contents["saepipe"]["undefined"]) == {"cossim", "relative_reconstruction_bias"}
    assert contents["saepipe"]["intervals"] == {}


def test_a_probability_of_zero_is_nan() -> None:
    logits = torch.tensor([[[0.0, 200.0], [0.0, 1.0]]])
    prediction = predict_as_saebench(-logits, torch.zeros(1, 2, dtype=torch.int64), logits)
    assert prediction.kl.isnan().tolist() == [[True, False]]
    assert prediction.ce[0, 0] == 0


def test_divisions_by_zero_and_infinities_have_a_reason() -> None:
    same = {"with_ablation": 2.0, "with_sae": 2.0, "without_sae": 2.0}
    score = saebench.figures_of_losses(same, dict.fromkeys(same, 0.0))["model_performance_preservation"]
    assert score["ce_loss_score"] == Estimate(None, reason="SAEBench divides by zero here and writes no file")
    assert score["ce_loss_with_sae"] == 2.0
    assert plain(saebench.to_figure(np.inf)) is None


def test_small_norms_count_as_one() -> None:
    x = torch.tensor([[5e-5, 0.0], [3.0, 4.0]])
    ones = torch.ones(2)
    reconstruction = SimpleNamespace(x_hat=torch.full((2, 2), 2.0), l0=ones, l1=ones, signed_l1=ones)
    assert saebench.token_sums(x, reconstruction)["norm_ratio"] == pytest.approx(8**0.5 + 8**0.5 / 5)  # type: ignore[arg-type]


def test_cold_and_warm_agree(measure, random_sae, reference_testbed) -> None:
    cold = measure(random_sae)
    num_passes = reference_testbed.passes.upper
    assert measure(random_sae) == cold
    assert reference_testbed.passes.upper - num_passes == 2 * SCORED


def test_impossible_splits_and_broken_saes_are_refused(reference_testbed, subject_of, random_sae, make_sae) -> None:
    with pytest.raises(ConfigError, match="4 reconstruction batches leave none of the 4 batches"):
        Core(reconstruction_batches=4).works(reference_testbed)
    [result] = Core().measure([subject_of(random_sae)], reference_testbed, Silent())
    assert result.eval_config["n_eval_sparsity_variance_batches"] == 3
    broken = subject_of(make_sae(torch.eye(D_IN), torch.eye(D_IN), b_dec=torch.nan))
    with pytest.raises(CorruptDataError, match="x_hat is NaN"):
        Core().measure([broken], reference_testbed, Silent())
