"""Crosscoders: scales by hook, the L1 of decoder norms, what is saved, and views of single hooks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.made_caches import structured_rows, write_cache
from helpers.random_runs import ARCHITECTURES
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.joint_hooks import hooks_of, joint_name
from saepipe.data.errors import ConfigError
from saepipe.train.config import TrainConfig
from saepipe.train.plan import plan_runs
from saepipe.train.run import train
from saepipe.train.rundir.exporting import Library, export_sae
from saepipe.train.rundir.finished_run import open_run
from saepipe.train.rundir.load import load
from saepipe.train.sae.base import Architecture
from saepipe.train.sae.crosscoder import in_raw_units, joint_scale, norms_by_hook
from saepipe.train.step.state import fresh_state, initial_params
from saepipe.train.step.step import step_loss, train_step

HOOKS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
WIDTHS = (24, 20, 24)
D_SAE, BATCH = 40, 17
LENIENT = {"most_l0": 1.0, "least_variance": -1e9, "least_alive": 0.0}

Make = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns 1,500 rows at three hooks, of lengths 1, 5 and 25 times each other."""
    rows = {
        hook: (5**number * structured_rows(1500, width, number).float()).bfloat16()
        for number, (hook, width) in enumerate(zip(HOOKS, WIDTHS, strict=True))
    }
    return write_cache(tmp_path_factory.mktemp("three") / "cache", rows)


@pytest.fixture
def make(cache: Path, config: Make) -> Make:
    return lambda **changes: config(**{"cache": str(cache), "hooks": HOOKS, **changes})


def rows_of(cache: Path, num_rows: int) -> torch.Tensor:
    return torch.cat([Cache.open(cache).acts(hook)[:num_rows] for hook in HOOKS], dim=1).float()


def test_every_hook_is_trained_at_its_own_scale(make: Make, cache: Path) -> None:
    (planned,) = plan_runs(make(), Path("unused"))
    recipe = planned.recipe
    assert (recipe.d_in, recipe.widths, planned.stream[1]) == (sum(WIDTHS), WIDTHS, HOOKS)
    scaled = recipe.scaled(rows_of(cache, 1500))
    for part, width in zip(scaled.split(list(WIDTHS), dim=1), WIDTHS, strict=True):
        assert part.square().sum(1).mean().item() == pytest.approx(width, rel=0.01)


def test_l1_weighs_activations_by_the_sum_of_their_norms_at_the_hooks(make: Make, cache: Path) -> None:
    (planned,) = plan_runs(make(penalties=[{"name": "l1", "weight": 1.0}]), Path("unused"))
    recipe = planned.recipe
    state = fresh_state(recipe, initial_params(recipe))
    x = recipe.scaled(rows_of(cache, BATCH))
    loss = step_loss(recipe, state, x)
    exact = {name: value.detach().double().requires_grad_() for name, value in state.params.items()}
    acts = ((x.double() - exact["b_dec"]) @ exact["W_enc"] + exact["b_enc"]).relu()
    norms = sum(block.norm(dim=1) for block in exact["W_dec"].split(list(WIDTHS), dim=1))
    expected = (acts * norms).sum(1).mean()
    assert loss.terms["l1"].value.item() == pytest.approx(expected.item(), rel=1e-5)
    ours = torch.autograd.grad(loss.terms["l1"].value, state.params["W_dec"], retain_graph=True)[0]
    torch.testing.assert_close(ours.double(), torch.autograd.grad(expected, exact["W_dec"])[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sparse_steps", ["never", "always"])
def test_sparse_steps_are_dense_ones(make: Make, cache: Path, sparse_steps: str) -> None:
    ends = []
    for rule in ("never", sparse_steps):
        (planned,) = plan_runs(make(sparse_steps=rule, screen="never"), Path("unused"))
        state = fresh_state(planned.recipe, initial_params(planned.recipe))
        for _ in range(5):
            train_step(planned.recipe, state, rows_of(cache, BATCH))
        ends.append(state.params)
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("freeze", ["decoder", "encoder", "soft_decoder"])
def test_a_part_of_a_crosscoder_can_be_frozen(make: Make, tmp_path: Path, freeze: str) -> None:
    settings = make(sae={"name": "topk", "d_sae": D_SAE, "k": 4}, penalties=[], freeze=freeze)
    (planned,), (run,) = plan_runs(settings, tmp_path), train(settings, tmp_path)
    recipe, after = planned.recipe, load(run)
    assert recipe.scales is not None
    before = in_raw_units(recipe.config.sae, initial_params(recipe), recipe.widths, recipe.scales)
    kept = [name for name in ("W_enc", "W_dec") if torch.equal(getattr(after, name).detach(), before[name])]
    assert kept == {"decoder": ["W_dec"], "encoder": ["W_enc"]}.get(freeze, [])


@pytest.mark.parametrize("name", sorted({*ARCHITECTURES} - {"gated"}))
def test_raw_units_leave_the_function_as_it_is(name: str) -> None:
    sae = Architecture.member(name).parse({"name": name, "d_sae": D_SAE, **ARCHITECTURES[name]})
    assert isinstance(sae, Architecture)
    rng = torch.Generator().manual_seed(1)
    params = {
        key: value + 0.1 * torch.rand(value.shape, generator=rng) for key, value in sae.init(68, 0.5, rng).items()
    }
    sae, params = sae.inference(params)
    scales = (0.5, 3.0, 1.5)
    channels = torch.cat([torch.full((width,), scale) for width, scale in zip(WIDTHS, scales, strict=True)])
    x, raw = torch.randn(BATCH, 68, generator=rng), in_raw_units(sae, params, WIDTHS, scales)
    acts = sae.encode(params, x)
    torch.testing.assert_close(joint_scale(scales) * sae.encode(raw, x / channels), acts, rtol=1e-4, atol=1e-5)
    x_hat = sae.decode(raw, sae.encode(raw, x / channels))
    torch.testing.assert_close(channels * x_hat, sae.decode(params, acts), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["batch_topk", "relu"])
def test_the_saved_crosscoder_and_its_views(make: Make, cache: Path, tmp_path: Path, name: str) -> None:
    sae = {"name": name, "d_sae": D_SAE, **ARCHITECTURES[name]}
    (path,) = train(make(sae=sae, steps=60, penalties=[], health=LENIENT), tmp_path)
    loaded, run, x = load(path), open_run(path), rows_of(cache, 1500)
    assert run.hook == run.sites == loaded.hook == joint_name(HOOKS)
    assert hooks_of(run.hook) == [*HOOKS]
    assert (loaded.d_in, loaded.widths) == (68, WIDTHS)
    (planned,) = plan_runs(make(sae=sae, steps=60, penalties=[], health=LENIENT), tmp_path)
    scaled, x_hat = planned.recipe.scaled(x), planned.recipe.scaled(loaded(x))
    explained = 1 - (scaled - x_hat).square().sum() / (scaled - scaled.mean(0)).square().sum()
    audited = json.loads((path / "health.json").read_text())["audit"]["sae"]
    assert explained.item() == pytest.approx(audited["explained_variance"], abs=1e-3)
    whole = loaded(x).split(list(WIDTHS), dim=1)
    for hook, part in zip(HOOKS, whole, strict=True):
        view = loaded.at_hook(hook)
        assert (view.target, view.d_out, view.d_in) == (hook, part.shape[1], 68)
        torch.testing.assert_close(view(x), part, rtol=1e-4, atol=1e-3)
    with pytest.raises(ConfigError, match="it has no view of blocks.9"):
        loaded.at_hook("blocks.9.hook_resid_post")
    norms = norms_by_hook(loaded.W_dec, WIDTHS)
    torch.testing.assert_close(norms.square().sum(1).sqrt(), loaded.W_dec.norm(dim=1))


@pytest.mark.parametrize("library", ["saelens", "dictionary_learning", "sparsify", "circuit-tracer"])
def test_no_library_has_a_class_for_it(make: Make, tmp_path: Path, library: Library) -> None:
    sae = {"name": "topk", "d_sae": D_SAE, "k": 4}
    (path,) = train(make(sae=sae, steps=30, penalties=[], health=LENIENT), tmp_path / "runs")
    with pytest.raises(ConfigError, match="is a crosscoder of blocks.0.*; an export to"):
        export_sae(path, library, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hook": HOOKS[0]}, "hooks, of a crosscoder, and hook or target exclude each other"),
        ({"hooks": HOOKS[:1]}, "hooks, of a crosscoder, are several"),
        ({"hooks": (HOOKS[0], HOOKS[0])}, "name one twice"),
        ({"hooks": (HOOKS[0], "blocks.7.hook_resid_post")}, r"hooks blocks.7.hook_resid_post are not in the cache"),
        ({"sae": {"name": "gated", "d_sae": D_SAE}}, "a crosscoder cannot be gated"),
    ],
)
def test_mistakes_are_named(make: Make, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_runs(make(**changes), Path("unused"))


def test_ids_of_saes_are_those_of_versions_without_crosscoders(make: Make, cache: Path) -> None:
    assert "hooks" not in make(hooks=(), hook=HOOKS[0]).identity()
    assert make().identity()["hooks"] == [*HOOKS]
