"""The KL term against an independent float64 forward with plain module hooks, and models that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import zarr
from torch import Tensor

from helpers.made_caches import structured_rows, write_cache
from saepipe.data.cache.cache import Cache
from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.model.tail_models import TailModels
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.model import load_model
from saepipe.harvest.model_config import ModelConfig
from saepipe.harvest.run import harvest
from saepipe.train.config import TrainConfig
from saepipe.train.plan import Planned, plan_runs
from saepipe.train.step.kl_tail import SharedWindows, window_numbers
from saepipe.train.step.state import TrainState, fresh_state, initial_params
from saepipe.train.step.step import step_loss

RESID, MLP_IN, MLP_OUT = "blocks.1.hook_resid_post", "blocks.1.hook_mlp_in", "blocks.1.hook_mlp_out"
MODULES = {RESID: "model.layers.1", MLP_IN: "model.layers.1.mlp", MLP_OUT: "model.layers.1.post_feedforward_layernorm"}
STEP, COUNT, CPU = 3, 3, torch.device("cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, toy_config: HarvestConfig) -> Cache:
    settings = {"hooks": (RESID, MLP_IN, MLP_OUT), "num_tokens": 4096, "heldout_tokens": 1200}
    return harvest(toy_config.model_copy(update=settings), tmp_path_factory.mktemp("tail") / "cache")


def planned(cache: Cache, **changes: Any) -> Planned:
    raw = {"cache": str(cache.path), "sae": {"name": "relu", "d_sae": 40}, "steps": 8, "batch_size": 64}
    tail = {"share": 0.5, "windows": COUNT}
    (run,) = plan_runs(TrainConfig.parse({**raw, "kl_tail": tail, "device": "cpu", **changes}), Path())
    return run


def stored(cache: Cache, name: str) -> Tensor:
    """Returns an array of the cache as zarr itself reads it, int64."""
    array: Any = zarr.open_group(cache.path, mode="r")[name]
    return torch.from_numpy(array[:]).long()


def random_state(run: Planned) -> TrainState:
    """Returns a state whose parameters are all away from 0."""
    state, rng = fresh_state(run.recipe, initial_params(run.recipe)), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in state.all_params.values():
            value.add_(0.3 * torch.randn(value.shape, generator=rng))
    return state


@pytest.mark.parametrize(
    "sites", [{"hook": RESID}, {"hook": MLP_IN, "target": MLP_OUT, "skip": True}], ids=["sae", "transcoder"]
)
def test_the_term_and_its_gradient_are_those_of_a_plain_forward_in_float64(cache: Cache, sites: dict[str, Any]) -> None:
    run = planned(cache, **sites)
    state, recipe = random_state(run), run.recipe
    model = TailModels(CPU, Silent()).at(cache, recipe.config.site, recipe.config.target)
    rows = torch.randn(64, recipe.d_in + (recipe.d_out if recipe.target else 0))
    loss = step_loss(recipe, state, rows, SharedWindows(model, data_seed=0).at(STEP, COUNT))
    ours = loss.terms["kl_tail"].value
    params = {name: value.detach().double().requires_grad_() for name, value in state.all_params.items()}
    kl = plain_kl(run, params)
    assert ours.item() == pytest.approx(kl.item(), rel=1e-4)
    assert kl > 0.05
    names = list(state.params)
    gradients = torch.autograd.grad(ours, [state.params[name] for name in names])
    expected = torch.autograd.grad(kl, [params[name] for name in names])
    for name, own, exact in zip(names, gradients, expected, strict=True):
        assert exact.norm() > 0
        assert (own - exact).norm() < 1e-3 * exact.norm(), name


def plain_kl(run: Planned, params: dict[str, Tensor]) -> Tensor:
    """Computes the mean KL of a ReLU SAE, or a skip transcoder, spliced into the whole model by hooks on modules."""
    cache, config, scale = run.cache, run.recipe.config, run.recipe.scale
    model = load_model(ModelConfig(dtype="float32", device="cpu")).model.double()
    contexts = stored(cache, "contexts")
    ids = contexts[window_numbers(STEP, COUNT, len(contexts), 0)]
    keep = ~torch.isin(ids, torch.tensor(cache.attributes["special_ids"]))
    scored = keep[:, :-1] & keep[:, 1:]
    read: list[Tensor] = []

    def reconstruct(x: Tensor) -> Tensor:
        inputs = scale * x[keep] - params.get("b_in", params["b_dec"])
        x_hat = (inputs @ params["W_enc"] + params["b_enc"]).relu() @ params["W_dec"] + params["b_dec"]
        x_hat = x_hat + inputs @ params["W_skip"] if "W_skip" in params else x_hat
        return x_hat / (run.recipe.target.scale if run.recipe.target else scale)

    def splice(_: Any, __: Any, output: Tensor) -> Tensor:
        spliced = output.clone()
        spliced[keep] = reconstruct(read[0] if read else output)
        return spliced

    log_p = model(ids).logits.log_softmax(-1)
    handles = [model.get_submodule(MODULES[config.target or config.site]).register_forward_hook(splice)]
    if config.target:
        module = model.get_submodule(MODULES[config.site])
        handles.append(module.register_forward_pre_hook(lambda _, args: read.append(args[0])))
    log_q = model(ids).logits.log_softmax(-1)
    for handle in handles:
        handle.remove()
    return (log_p.exp() * (log_p - log_q)).sum(-1)[:, :-1][scored].mean()


def test_the_clean_model_at_the_rows_is_the_one_of_the_cache(cache: Cache) -> None:
    """The stored training rows are rounded to bfloat16 and shuffled; some windows have rows that were not stored."""
    model, keep = TailModels(CPU, Silent()).at(cache, RESID, None), stored(cache, "keep").bool()
    assert model.num_windows == len(keep)
    fresh = torch.zeros(*keep.shape, 128)
    fresh[keep] = model.clean(range(len(keep))).x
    rows = cache.acts(RESID)[:].float()
    torch.testing.assert_close(
        fresh[stored(cache, "context_id"), stored(cache, "position")], rows, rtol=0.01, atol=0.01
    )


def test_a_cache_without_token_ids_is_refused(tmp_path: Path) -> None:
    rows = {RESID: structured_rows(300, 24)}
    cache = Cache.open(write_cache(tmp_path / "cache", rows))
    with pytest.raises(ConfigError, match="no token ids of its training rows"):
        TailModels(CPU, Silent()).at(cache, RESID, None)


def test_another_model_of_the_same_name_is_refused(cache: Cache) -> None:
    attributes = {**cache.attributes, "model": {**cache.attributes["model"], "weights": "another"}}
    other = Cache(cache.path, "another", attributes, cache.lines)
    with pytest.raises(ConfigError, match="toy is not the model that made"):
        TailModels(CPU, Silent()).at(other, RESID, None)


def test_a_model_is_loaded_once_for_the_hooks_of_its_cache(cache: Cache) -> None:
    models = TailModels(CPU, Silent())
    at_resid, at_mlp = models.at(cache, RESID, None), models.at(cache, MLP_IN, MLP_OUT)
    assert at_resid.testbed.language_model is at_mlp.testbed.language_model
