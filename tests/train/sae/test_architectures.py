"""Properties that every architecture must have, and the formula of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from saepipe.data.batches.stream import BatchStream
from saepipe.data.cache.cache import Cache
from saepipe.data.config.component import import_members
from saepipe.data.errors import ConfigError
from saepipe.train.config import TrainConfig
from saepipe.train.formats import saelens
from saepipe.train.run import train
from saepipe.train.rundir.finished_run import open_run
from saepipe.train.rundir.load import load
from saepipe.train.sae.base import Architecture, Params
from saepipe.train.sae.batch_topk import BatchTopK
from saepipe.train.sae.relu import ReLU
from saepipe.train.seeds import generator

import_members(Architecture.package)


D_IN, D_SAE, BATCH = 24, 40, 17

SETTINGS: dict[str, dict[str, object]] = {
    "topk": {"k": 6},
    "batch_topk": {"k": 5.5},
    "matryoshka_batch_topk": {"k": 6, "groups": [0.125, 15]},
    "jumprelu": {"bandwidth": 0.5},
    "matching_pursuit": {"k": 6},
}


def make(name: str, **settings: object) -> Architecture:
    sae = Architecture.parse({"name": name, "d_sae": D_SAE, **SETTINGS.get(name, {}), **settings})
    assert isinstance(sae, Architecture)
    return sae


@pytest.fixture(params=sorted(Architecture.members))
def sae(request: pytest.FixtureRequest) -> Architecture:
    return make(request.param)


@pytest.fixture
def params(sae: Architecture, params: Params) -> Params:
    """The common parameters and the architecture's own, with no zeros."""
    rng = generator(4)
    for name, value in sae.init(D_IN, 1.0, rng).items():
        sample = 0.1 + 0.4 * torch.rand(value.shape, generator=rng, dtype=torch.float64)
        params.setdefault(name, sample.requires_grad_(name not in sae.buffers))
    return params


def test_the_parts_of_an_architecture_decode_what_the_whole_does(sae: Architecture, params: Params) -> None:
    if sae.name == "matching_pursuit":
        assert not sae.can_be_split  # each of its steps compares all latents
        return
    acts = torch.rand(BATCH, D_SAE, generator=generator(9), dtype=torch.float64)
    expected = sae.reconstructions(params, acts, acts)
    added = [torch.zeros_like(x_hat) for x_hat in expected]
    for latents in (range(3), range(3, 17), range(17, D_SAE)):
        part, cut = sae.part(latents), slice(latents.start, latents.stop)
        assert part is not None
        assert part.d_sae == len(latents)
        own = {**params, "W_dec": params["W_dec"][cut], "b_dec": params["b_dec"] * (latents.start == 0)}
        x_hats = part.reconstructions(own, acts[:, cut], acts[:, cut])
        added = [total + x_hat for total, x_hat in zip(added, x_hats, strict=True)]
    torch.testing.assert_close(added, list(expected))


class Rotated(ReLU):
    """A ReLU whose pre-activations of one latent depend on another's."""

    name: str  # type: ignore[assignment]  # without a default it is no member of the family

    def pre_acts(self, params: Params, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return super().pre_acts(params, x, dtype).roll(1, -1)


def test_an_architecture_that_computes_in_its_own_way_is_not_split() -> None:
    assert {name for name in SETTINGS if not make(name).can_be_split} == {"matching_pursuit"}
    assert not Rotated(name="rotated", d_sae=8).can_be_split


def test_init_has_unit_rows_a_tied_encoder_and_zero_biases(sae: Architecture) -> None:
    params = sae.init(D_IN, 0.5, generator(0, "init"))
    common = {"W_enc": (D_IN, D_SAE), "b_enc": (D_SAE,), "W_dec": (D_SAE, D_IN), "b_dec": (D_IN,)}
    assert common.items() <= {name: tuple(value.shape) for name, value in params.items()}.items()
    assert sae.buffers <= params.keys()
    torch.testing.assert_close(params["W_dec"].norm(dim=1), torch.ones(D_SAE))
    torch.testing.assert_close(params["W_enc"], 0.5 * params["W_dec"].T)
    assert not params["b_enc"].any()
    assert not params["b_dec"].any()


def test_init_depends_on_its_seed_only(sae: Architecture) -> None:
    torch.manual_seed(1)
    first = sae.init(24, 1.0, generator(3, "init"))["W_dec"]
    torch.manual_seed(2)
    assert torch.equal(first, sae.init(24, 1.0, generator(3, "init"))["W_dec"])
    assert not torch.equal(first, sae.init(24, 1.0, generator(4, "init"))["W_dec"])
    assert not torch.equal(first, sae.init(24, 1.0, generator(3, "resample"))["W_dec"])


def test_pre_acts_and_their_gradients_match_the_plain_formula(sae: Architecture, params: Params, x: Tensor) -> None:
    actual = sae.pre_acts(params, x, torch.float64)
    if sae.tied:
        names = ["W_dec", "b_dec"]
        expected = (x - params["b_dec"]) @ params["W_dec"].T
    else:
        names = ["W_enc", "b_enc", "b_dec"]
        expected = (x - params["b_dec"]) @ params["W_enc"] + params["b_enc"]
    torch.testing.assert_close(actual, expected)
    upstream = torch.randn(expected.shape, generator=generator(0), dtype=torch.float64)
    references = torch.autograd.grad((expected * upstream).sum(), [params[name] for name in names])
    gradients = torch.autograd.grad((actual * upstream).sum(), [params[name] for name in names])
    for name, gradient, reference in zip(names, gradients, references, strict=True):
        torch.testing.assert_close(gradient, reference, msg=name)


def test_acts_are_never_negative_and_take_any_leading_shape(sae: Architecture, params: Params, x: Tensor) -> None:
    acts = sae.encode(params, x[:16], torch.float64)
    for values in (acts, sae.activate_training(params, sae.pre_acts(params, x[:16], torch.float64))):
        assert values.shape == (16, D_SAE)
        assert values.min() == 0
        assert values.max() > 0
    torch.testing.assert_close(sae.encode(params, x[:16].view(2, 8, 24), torch.float64), acts.view(2, 8, 40))
    x_hat = sae.decode(params, acts)
    torch.testing.assert_close(x_hat, acts @ params["W_dec"] + params["b_dec"])


def test_bfloat16_activations_stay_so(sae: Architecture, params: Params, x: Tensor) -> None:
    single = {name: value.detach().float() for name, value in params.items()}
    pre_acts = sae.pre_acts(single, x.float(), torch.bfloat16)
    acts = sae.activate_training(single, pre_acts)
    activations = [acts, sae.activate(single, pre_acts), sae.gate_acts(single, pre_acts, acts)]
    assert {tensor.dtype for tensor in activations} == {torch.bfloat16}
    outputs = [*sae.reconstructions(single, pre_acts, acts), *sae.observe(single, acts).values()]
    assert {tensor.dtype for tensor in outputs} == {torch.float32}


def test_the_scale_is_folded_into_the_biases(sae: Architecture, params: Params, x: Tensor) -> None:
    scale = 0.037
    raw = x / scale
    folded = sae.unscaled(params, scale)
    acts, raw_acts = sae.encode(params, x, torch.float64), sae.encode(folded, raw, torch.float64)
    torch.testing.assert_close(raw_acts, acts / scale)
    torch.testing.assert_close(sae.decode(folded, raw_acts), sae.decode(params, acts) / scale)
    assert folded["W_dec"] is params["W_dec"]
    assert folded["W_enc"] is params["W_enc"]


def test_a_saelens_folder_gives_back_the_same_sae(sae: Architecture, params: Params, tmp_path: Path) -> None:
    saelens.write(tmp_path, sae, params, {"hook_name": "blocks.1.hook_resid_post"})
    again, loaded, metadata = saelens.read(tmp_path)
    saved, expected = sae.inference(params)
    assert again == saved
    assert metadata["hook_name"] == "blocks.1.hook_resid_post"
    assert loaded.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(loaded[name], value.detach().float()), name


def test_the_saved_sae_equals_the_trained_one_in_inference(sae: Architecture, params: Params, x: Tensor) -> None:
    saved, values = sae.inference(params)
    acts, again = sae.encode(params, x, torch.float64), saved.encode(values, x, torch.float64)
    assert torch.equal(acts, again)
    threshold = saved.threshold(values)
    if threshold is not None:
        assert torch.equal(acts > 0, sae.pre_acts(params, x, torch.float64) > threshold)


def test_the_last_reconstruction_decodes_the_activations(sae: Architecture, params: Params, x: Tensor) -> None:
    pre_acts = sae.pre_acts(params, x, torch.float64)
    acts = sae.activate_training(params, pre_acts)
    torch.testing.assert_close(sae.reconstructions(params, pre_acts, acts)[-1], sae.decode(params, acts))


def test_new_buffers_keep_their_shapes_and_have_no_gradient(sae: Architecture, params: Params, x: Tensor) -> None:
    acts = sae.activate_training(params, sae.pre_acts(params, x, torch.float64)).detach()
    after = sae.observe(params, acts)
    assert after.keys() == sae.buffers
    for name, value in after.items():
        assert (value.shape, value.dtype) == (params[name].shape, params[name].dtype)
        assert not value.requires_grad


def loss(sae: Architecture, params: Params, x: Tensor) -> Tensor:
    """Computes a training loss: the errors of all reconstructions, and a penalty on the gate."""
    pre_acts = sae.pre_acts(params, x, torch.float64)
    acts = sae.activate_training(params, pre_acts)
    errors = [(x - x_hat).square().sum(1).mean() for x_hat in sae.reconstructions(params, pre_acts, acts)]
    return torch.stack([*errors, sae.gate_acts(params, pre_acts, acts).sum(1).mean()]).sum()


def test_gradients_are_finite_differences(sae: Architecture, params: Params, x: Tensor) -> None:
    """Except where a gradient is an estimate (threshold) or detached on purpose (a gated SAE's second decoder)."""
    names = [name for name in params if name not in sae.buffers]
    gradients = torch.autograd.grad(loss(sae, params, x), [params[name] for name in names])
    exempt = {"jumprelu": {"threshold"}, "gated": {"W_dec", "b_dec"}}.get(sae.name, set())
    for name, gradient in zip(names, gradients, strict=True):
        assert gradient.any(), name
        if name in exempt:
            continue
        direction = torch.randn(gradient.shape, generator=generator(0, name), dtype=torch.float64)
        step = 1e-6 * direction
        ahead, behind = (loss(sae, {**params, name: params[name] + move}, x).item() for move in (step, -step))
        assert (ahead - behind) / 2e-6 == pytest.approx(float((gradient * direction).sum()), rel=1e-5, abs=1e-7), name


def test_stacked_runs_give_the_same_as_single_runs(sae: Architecture, params: Params, x: Tensor) -> None:
    runs = [{name: value.detach() * factor for name, value in params.items()} for factor in (1.0, 0.8, 1.3)]
    stacked = {name: torch.stack([run[name] for run in runs]) for name in params}
    xs = torch.stack([x, 0.5 * x, 2 * x])

    def everything(params: Params, x: Tensor) -> tuple[Params, Params]:
        trained = {name: value for name, value in params.items() if name not in sae.buffers}
        buffers = {name: params[name] for name in sae.buffers}
        gradients = torch.func.grad(lambda trained: loss(sae, {**trained, **buffers}, x))(trained)
        acts = sae.activate_training(params, sae.pre_acts(params, x, torch.float64))
        return gradients, {**sae.observe(params, acts), "acts": acts, "encoded": sae.encode(params, x, torch.float64)}

    together = torch.func.vmap(everything)(stacked, xs)
    for number, (run, rows) in enumerate(zip(runs, xs, strict=True)):
        for ours, alone in zip(together, everything(run, rows), strict=True):
            for name, value in alone.items():
                torch.testing.assert_close(ours[name][number], value, msg=name)


def test_topk_keeps_the_k_largest(x: Tensor) -> None:
    sae = Architecture.parse({"name": "topk", "d_sae": 24, "k": 5})
    assert isinstance(sae, Architecture)
    acts = sae.activate({}, x)
    for pre, row in zip(x.tolist(), acts.tolist(), strict=True):
        kept = sorted(pre)[-5:]
        assert row == [value if value in kept and value > 0 else 0.0 for value in pre]


def test_relu_is_relu(x: Tensor) -> None:
    sae = Architecture.parse({"name": "relu", "d_sae": 24})
    assert isinstance(sae, Architecture)
    assert torch.equal(sae.activate({}, x), torch.where(x > 0, x, 0.0))


def batch_topk_by_a_loop(pre_acts: Tensor, num_kept: int) -> list[list[float]]:
    """Keeps the largest positive entries of the whole batch."""
    kept = sorted(value for row in pre_acts.tolist() for value in row)[-num_kept:]
    return [[value if value in kept and value > 0 else 0.0 for value in row] for row in pre_acts.tolist()]


@pytest.mark.parametrize("k", [0.5, 3, 7.25])
def test_batch_topk_keeps_the_largest_of_the_batch(x: Tensor, k: float) -> None:
    acts = make("batch_topk", k=k, d_sae=D_IN).activate_training({}, x)
    assert acts.tolist() == batch_topk_by_a_loop(x, round(k * BATCH))


def test_batch_topk_keeps_positive_entries_only(x: Tensor) -> None:
    acts = make("batch_topk", k=D_IN, d_sae=D_IN).activate_training({}, x)
    assert torch.equal(acts, x.relu())


def test_the_threshold_is_a_running_mean_of_the_smallest_kept_activations() -> None:
    sae = make("batch_topk", threshold_decay=0.75)
    batches = [[[0.0, 3.0], [0.0, 0.0]], [[5.0, 1.0], [2.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]], [[0.0, 4.0], [9.0, 0.0]]]
    params, thresholds = {"threshold": torch.zeros(())}, []
    for batch in batches:
        params = dict(sae.observe(params, torch.tensor(batch)))
        thresholds.append(params["threshold"].item())
    assert thresholds == [3.0, 3 * 0.75 + 1 * 0.25, 2.5, 2.5 * 0.75 + 4 * 0.25]  # an empty batch changes nothing


@pytest.mark.parametrize("name", ["batch_topk", "matryoshka_batch_topk"])
def test_inference_has_the_same_l0_as_training(name: str) -> None:
    sae, rng = make(name, k=4), generator(7)
    params = sae.init(D_IN, 1.0, rng)
    for _ in range(300):
        pre_acts = sae.pre_acts(params, torch.randn(512, D_IN, generator=rng))
        params |= sae.observe(params, sae.activate_training(params, pre_acts))
    saved, values = sae.inference(params)
    acts = saved.encode(values, torch.randn(20_000, D_IN, generator=rng))
    assert (acts > 0).sum().item() / len(acts) == pytest.approx(4, rel=0.1)


def test_jumprelu_by_the_papers_formulas() -> None:
    """acts = z 1[z > t]; d acts/dz = 1[z > t]; d acts/dt = -(t / bandwidth) 1[|z - t| < bandwidth / 2]."""
    sae, bandwidth = make("jumprelu", d_sae=4, bandwidth=0.5), 0.5
    pre_acts = torch.randn(200, 4, generator=generator(1), dtype=torch.float64).requires_grad_()
    threshold = torch.tensor([0.1, 0.3, 1.0, 0.0], dtype=torch.float64, requires_grad=True)
    acts = sae.activate_training({"threshold": threshold}, pre_acts)
    upstream = torch.randn(acts.shape, generator=generator(2), dtype=torch.float64)
    to_pre, to_threshold = torch.autograd.grad((acts * upstream).sum(), [pre_acts, threshold])
    expected = [0.0] * 4
    for row, (values, gradients) in enumerate(zip(pre_acts.tolist(), upstream.tolist(), strict=True)):
        for i, (z, t, g) in enumerate(zip(values, threshold.tolist(), gradients, strict=True)):
            assert acts[row, i].item() == (z if z > t else 0.0)
            assert to_pre[row, i].item() == (g if z > t else 0.0)
            expected[i] -= g * t / bandwidth * (abs(z - t) < bandwidth / 2)
    assert to_threshold.tolist() == pytest.approx(expected)


def test_a_negative_jumprelu_threshold_counts_as_zero_and_may_recover() -> None:
    sae = make("jumprelu", d_sae=2)
    threshold = torch.tensor([-0.4, 0.2], requires_grad=True)
    effective = sae.threshold({"threshold": threshold})
    assert effective is not None
    assert effective.tolist() == pytest.approx([0.0, 0.2])
    assert torch.autograd.grad(effective.sum(), threshold)[0].tolist() == [1.0, 1.0]
    pre_acts = torch.tensor([[-0.1, 0.1], [0.1, 0.3]])
    assert sae.activate({"threshold": threshold}, pre_acts).tolist() == [
        [0.0, 0.0],
        [pytest.approx(0.1), pytest.approx(0.3)],
    ]
    assert sae.inference({"threshold": threshold})[1]["threshold"].min() == 0


@pytest.mark.parametrize("sae", ["gated"], indirect=True)
def test_gated_by_the_papers_formulas(sae: Architecture, params: Params, x: Tensor) -> None:
    with torch.no_grad():
        gate = (x - params["b_dec"]) @ params["W_enc"] + params["b_enc"]
        magnitude = (x - params["b_dec"]) @ (params["W_enc"] * params["r_mag"].exp()) + params["b_mag"]
        acts = torch.where(gate > 0, magnitude.relu(), 0.0)
    pre_acts = sae.pre_acts(params, x, torch.float64)
    ours = sae.activate(params, pre_acts)
    torch.testing.assert_close(ours, acts)
    torch.testing.assert_close(sae.gate_acts(params, pre_acts, ours), gate.relu())
    by_gate, by_acts = sae.reconstructions(params, pre_acts, ours)
    torch.testing.assert_close(by_gate, gate.relu() @ params["W_dec"] + params["b_dec"])
    names = ("W_dec", "W_enc", "b_enc", "b_mag")
    to_dec, to_enc, to_bias, to_mag = torch.autograd.grad(
        (x - by_gate).square().sum(), [params[name] for name in names], allow_unused=True, retain_graph=True
    )
    assert to_dec is None  # this reconstruction trains the gate only
    assert to_mag is None
    assert to_enc.any()
    assert to_bias.any()
    (from_acts,) = torch.autograd.grad(by_acts.square().sum(), params["b_enc"], retain_graph=True)
    assert from_acts.abs().max() < 1e-10  # a step has no slope


def test_matryoshka_reconstructs_from_every_prefix() -> None:
    sae = make("matryoshka_batch_topk", groups=[0.1, 0.5, 30])
    params = sae.init(D_IN, 1.0, generator(0))
    acts = torch.rand(BATCH, D_SAE, generator=generator(1))
    x_hats = sae.reconstructions(params, acts, acts)
    assert [tuple(x_hat.shape) for x_hat in x_hats] == [(BATCH, D_IN)] * 4
    for size, x_hat in zip((4, 20, 30, 40), x_hats, strict=True):
        torch.testing.assert_close(x_hat, acts[:, :size] @ params["W_dec"][:size] + params["b_dec"])


@pytest.mark.parametrize("groups", [[0.5, 0.25], [0.01, 0.02], [0, 8], [8, 41]])
def test_groups_that_are_not_nested_are_refused(groups: list[float]) -> None:
    with pytest.raises(ConfigError, match="not nested"):
        make("matryoshka_batch_topk", groups=groups)


@pytest.mark.parametrize("name", ["topk", "batch_topk", "matryoshka_batch_topk"])
def test_num_active_is_k_and_k_is_at_most_d_sae(name: str) -> None:
    assert make(name, k=3).num_active == 3
    with pytest.raises(ConfigError, match="more than d_sae"):
        make(name, k=41)


def test_a_trained_sae_explains_raw_rows(sae: Architecture, config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    l1, l0 = [{"name": "l1", "weight": 0.5}], [{"name": "l0", "weight": 0.1}]
    penalties = {"jumprelu": l0, "relu": l1, "gated": l1}.get(sae.name, [])
    train_config = config(sae=sae.to_dict(), penalties=penalties, steps=300, log_every=100, checkpoint_every=1000)
    (folder,) = train(train_config, tmp_path)
    loaded = load(folder)
    assert loaded.architecture == sae.inference(sae.init(D_IN, 1.0, generator(0)))[0].name
    with BatchStream(Cache.open(train_config.cache), open_run(folder).hook, 1000, 9) as stream:
        rows = next(iter(stream.batches())).float()
    acts = loaded.encode(rows)
    fvu = (rows - loaded.decode(acts)).square().sum() / (rows - rows.mean(0)).square().sum()
    assert fvu < 0.6
    num_active = (acts > 0).sum().item() / len(rows)
    assert 1 < num_active < 0.7 * D_SAE
    if sae.num_active is not None:
        assert num_active == pytest.approx(sae.num_active, rel=0.2)


@pytest.mark.parametrize("threshold", [0.0, 0.9, 1.6, 99.0])
def test_the_running_threshold_does_not_change_what_a_batch_keeps(threshold: float) -> None:
    """It is far below, just below, above and far above the least kept pre-activation."""
    sae = BatchTopK(d_sae=50, k=4)
    pre_acts = torch.randn(30, 50, generator=torch.Generator().manual_seed(0))
    kept = pre_acts.flatten().topk(120).indices.sort().values
    assert 0.9 < pre_acts.flatten()[kept].min() < 1.6
    candidates = sae.candidates({"threshold": torch.tensor(threshold)}, pre_acts)
    chosen = None if candidates is None else sae.chosen(candidates, candidates.values_of(pre_acts))
    assert (chosen is None) == (threshold in (0.0, 99.0))
    if chosen is not None:
        assert torch.equal(chosen[0].positions, kept)
        assert torch.equal(chosen[1], pre_acts.flatten()[kept])
    assert torch.equal(sae.pattern({}, pre_acts).positions, kept)
