"""Frozen arms: what is frozen keeps every bit on every path of training, and all else is trained."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from helpers.killed_training import KillAfter, Killed
from helpers.steps_to_capture import sae
from saepipe.data.errors import ConfigError
from saepipe.data.folders.artifact import read_manifest
from saepipe.data.folders.health import Finding, Health
from saepipe.train.captured import runners
from saepipe.train.config import NEED_AN_ENCODER, TrainConfig
from saepipe.train.health.dry_step import dry_step
from saepipe.train.health.finished import check_finished
from saepipe.train.health.twins import Twin, check_twins
from saepipe.train.penalties.l1 import L1
from saepipe.train.plan import plan_runs
from saepipe.train.run import train
from saepipe.train.step.dead import resample
from saepipe.train.step.state import Recipe, TrainState, fresh_state, initial_params
from saepipe.train.step.step import train_step

Make = Callable[..., TrainConfig]
CPU = torch.device("cpu")
TOPK: dict[str, Any] = {"sae": {"name": "topk", "d_sae": 40, "k": 4}, "penalties": [{"name": "auxk"}]}
FROZEN = {"decoder": {"W_dec"}, "encoder": {"W_enc", "b_enc"}, "soft_decoder": set[str]()}
PATHS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sparse": {"sparse_steps": "always", "screen": "never"},
    "resampled": {"dead": {"after_tokens": 34, "resample_steps": 4}},
    "stacked": {"exact": False},
    "captured": {"compile": "inductor", "exact": False},
}
SAES = ("batch_topk", "gated", "jumprelu", "matryoshka_batch_topk", "relu", "topk")
NEAR = 0.96
"""Least cosine at which 20 steps turn some rows as far as they may go."""


def saved(run: Path) -> dict[str, Tensor]:
    return load_file(run / "sae" / "sae_weights.safetensors")


def begun(config: TrainConfig) -> tuple[Recipe, TrainState]:
    recipe = Recipe(config.resolved(hook="h", num_rows=1000, device=CPU), 24, 1.0, CPU)
    return recipe, fresh_state(recipe, initial_params(recipe))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("freeze", FROZEN)
def test_a_frozen_part_keeps_every_bit(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, freeze: str, path: str
) -> None:
    monkeypatch.setitem(runners.RUNNERS, "inductor", runners.interpreted)
    cosine = {"freeze_cosine": NEAR} if freeze == "soft_decoder" else {}
    settings = config(**TOPK, **PATHS[path], **cosine, freeze=freeze, seeds=[0, 1], optimizer={"lr": 1e-2})
    for planned, run in zip(plan_runs(settings, tmp_path), train(settings, tmp_path), strict=True):
        before, after = initial_params(planned.recipe), saved(run)
        kept = {name for name in ("W_enc", "b_enc", "W_dec", "b_dec") if torch.equal(before[name], after[name])}
        assert kept == FROZEN[freeze]
        rules = {finding.rule for finding in Health.read(run).findings}
        assert rules <= {"H1", "H9"}  # 20 steps make no good SAE
        assert read_manifest(run)[0]["stacked"] == (2 if not planned.recipe.config.exact else 1)
        if freeze == "soft_decoder":
            cosines = (before["W_dec"] * after["W_dec"]).sum(1)
            assert NEAR - 1e-5 < cosines.min() < NEAR + 1e-5 < cosines.max()
            torch.testing.assert_close(after["W_dec"].norm(dim=1), torch.ones(40))


@pytest.mark.parametrize("freeze", FROZEN)
def test_a_killed_run_is_resumed_bit_for_bit(config: Make, tmp_path: Path, freeze: str) -> None:
    """From another run's SAE, which is gone by then."""
    (source,) = train(config(**TOPK, seed=5), tmp_path / "source")
    lively = {**TOPK, "dead": {"after_tokens": 34, "resample_steps": 4}, "init": {"from": str(source)}}
    settings = config(**lively, freeze=freeze)
    (whole,) = train(settings, tmp_path / "whole")
    with pytest.raises(Killed):
        train(settings, tmp_path / "parts", progress=KillAfter(13))
    (resumed,) = train(settings, tmp_path / "parts", resume="must")
    ends, start = (saved(whole), saved(resumed)), saved(source)
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    torch.testing.assert_close(
        {name: ends[0][name] for name in FROZEN[freeze]}, {name: start[name] for name in FROZEN[freeze]}
    )
    if freeze == "soft_decoder":
        assert (ends[0]["W_dec"] * start["W_dec"]).sum(1).min() > 0.8 - 1e-5


@pytest.mark.parametrize(
    ("freeze", "name"), sorted({*product(FROZEN, SAES)} - {*product(["encoder"], NEED_AN_ENCODER)})
)
def test_sparse_steps_are_dense_ones(config: Make, freeze: str, name: str) -> None:
    settings = {"sae": sae(name), "penalties": [{"name": "auxk"}], "freeze": freeze, "screen": "never"}
    ends = []
    for sparse_steps in ("never", "always"):
        recipe, state = begun(config(**settings, sparse_steps=sparse_steps))
        for seed in range(10):
            train_step(recipe, state, torch.randn(17, 24, generator=torch.Generator().manual_seed(seed)))
        ends.append({name: value.detach() for name, value in state.all_params.items()})
    torch.testing.assert_close(*ends, rtol=1e-3, atol=1e-5)


def test_a_resampled_latent_changes_only_in_what_is_trained(config: Make) -> None:
    for freeze in FROZEN:
        recipe, state = begun(config(**TOPK, freeze=freeze) if freeze == "encoder" else config(freeze=freeze))
        before = {name: value.detach().clone() for name, value in state.all_params.items()}
        state.tokens_since_fired[[2, 7]] = 10_000
        assert resample(recipe, state, torch.randn(17, 24, generator=torch.Generator().manual_seed(0))) == 2
        after = state.all_params
        changed = {name for name in ("W_enc", "W_dec") if not torch.equal(after[name], before[name])}
        assert changed == {"W_enc", "W_dec"} - FROZEN[freeze]
        if freeze == "soft_decoder":
            cosines = (after["W_dec"] * before["W_dec"]).sum(1)[[2, 7]]
            torch.testing.assert_close(cosines.detach(), torch.full((2,), 0.8))


def test_h8_is_about_what_is_trained(config: Make) -> None:
    for freeze, rest in (("decoder", "W_enc"), ("encoder", "W_dec"), (None, "W_enc and W_dec")):
        recipe, state = begun(config(**TOPK, freeze=freeze))
        state.step = 20
        (finding,) = check_finished(recipe, state, initial_params(recipe))
        assert (finding.rule, finding.message.count(" by ")) == ("H8", len(rest.split(" and ")))
        assert all(name in finding.message for name in rest.split(" and "))


def dry(config: TrainConfig, folder: Path) -> list[Finding]:
    (run,) = plan_runs(config, folder)
    state = fresh_state(run.recipe, initial_params(run.recipe))
    return dry_step(run.recipe, state, torch.randn(34, 24).bfloat16().split(17))


def test_a_penalty_on_a_frozen_part_is_no_mistake(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(penalties=[{"name": "l1", "weight": 0.3}, {"name": "ortsae", "weight": 1.0}], freeze="decoder")
    assert dry(settings, tmp_path) == []
    (run,) = train(settings, tmp_path)
    (finding,) = (finding for finding in Health.read(run).findings if finding.rule == "H1")
    assert (finding.severity, finding.about) == ("warning", "ortsae")
    assert "because the decoder that it is about is frozen: the run is the one without it" in finding.message

    def without_gradient(penalty: L1, ctx: Any, state: Any, now: Any) -> Any:
        answer = original(penalty, ctx, state, now)
        return type(answer)(answer.value.detach(), answer.statistics, answer.state)

    original = L1.__call__
    monkeypatch.setattr(L1, "__call__", without_gradient)
    assert [(finding.rule, finding.about) for finding in dry(settings, tmp_path)] == [("H15", "l1")]


def test_frozen_decoders_of_one_seed_are_twins_by_their_losses_alone() -> None:
    evidence = {"reconstruction": {}, "final_reconstruction": 1.5, "W_dec": "d", "W_dec_entries": [1.0]}
    limits = TrainConfig.parse({"cache": "c", "sae": {"name": "relu", "d_sae": 4}, "steps": 1}).health

    def twins(freeze: str | None, **changes: Any) -> list[tuple[str, str]]:
        one = {"penalties": [], "freeze": freeze, "batch_size": 1}
        found = check_twins(Twin("a", one | changes, evidence), [Twin("b", one, evidence)], limits)
        return [(finding.rule, finding.severity) for finding in found]

    pairs = [{"name": "ortsae", "weight": 0.5}]
    assert twins("decoder", batch_size=2) == twins("decoder", batch_size=2, penalties=pairs) == [("H2", "error")]
    assert twins("decoder", penalties=pairs) == [("H2", "warning")]
    assert twins("encoder", penalties=pairs) == twins(None, penalties=pairs) == [("H2", "error"), ("H3", "error")]


def test_only_a_freeze_changes_the_id(config: Make) -> None:
    plain = config()
    assert not {"freeze", "freeze_cosine"} & plain.identity().keys()
    ids = {plain.run_id("c")} | {config(freeze=freeze).run_id("c") for freeze in ("decoder", "soft_decoder")}
    ids.add(config(freeze="soft_decoder", freeze_cosine=0.9).run_id("c"))
    assert len(ids) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze": "encoder"}, "about half the latents of a relu active.*use topk"),
        ({"freeze": "decoder", "freeze_cosine": 0.9}, "freeze_cosine has no effect without `freeze: soft_decoder`"),
        ({"freeze": "decoders"}, "freeze"),
        ({"freeze": "soft_decoder", "freeze_cosine": 1.0}, "less than 1"),
    ],
)
def test_what_cannot_be_frozen_is_refused(config: Make, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**changes)
