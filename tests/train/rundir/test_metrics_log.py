from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from saepipe.data.folders.artifact import digest_bytes
from saepipe.train.config import TrainConfig
from saepipe.train.rundir.metrics_log import MetricsLog, parse_lines
from saepipe.train.step.measure import measure, sample_gradients
from saepipe.train.step.state import Recipe, TrainState, fresh_state, initial_params
from saepipe.train.step.step import step_loss

pytestmark = pytest.mark.quick

Make = Callable[..., TrainConfig]
CPU = torch.device("cpu")


def begin(config: TrainConfig) -> tuple[Recipe, TrainState, torch.Tensor]:
    recipe = Recipe(config.resolved(hook="h", num_rows=1000, device=CPU), 24, 1.0, CPU)
    x = torch.randn(17, 24, generator=torch.Generator().manual_seed(0))
    return recipe, fresh_state(recipe, initial_params(recipe)), x


def test_a_measurement_equals_plain_autograd(config: Make) -> None:
    recipe, state, x = begin(config(penalties=[{"name": "l1", "weight": 3.0}]))
    loss = step_loss(recipe, state, x)
    sample, measurement = sample_gradients(state, loss), measure(recipe, state, loss)
    leaves = {name: value.detach().clone().requires_grad_() for name, value in state.params.items()}
    acts = torch.relu((x - leaves["b_dec"]) @ leaves["W_enc"] + leaves["b_enc"])
    squared = (x - acts @ leaves["W_dec"] - leaves["b_dec"]).pow(2).sum(1)
    terms = {"reconstruction": squared.mean(), "l1": 3 * (acts * leaves["W_dec"].norm(dim=1)).sum(1).mean()}
    total = torch.zeros(0)
    for name, term in terms.items():
        partial = torch.autograd.grad(term, list(leaves.values()), retain_graph=True, allow_unused=True)
        named = {key: torch.zeros_like(leaves[key]) if g is None else g for key, g in zip(leaves, partial, strict=True)}
        W_dec = leaves["W_dec"].detach()
        named["W_dec"] = named["W_dec"] - (named["W_dec"] * W_dec).sum(1, keepdim=True) * W_dec
        flat = torch.cat([value.flatten() for value in named.values()])
        assert sample.norms[name] == pytest.approx(flat.norm().item(), rel=1e-4)
        total = flat + total if len(total) else flat
    assert sample.total_norm == pytest.approx(total.norm().item(), rel=1e-4)
    assert measurement.l0 == pytest.approx(sum(value > 0 for row in acts.tolist() for value in row) / 17)
    assert measurement.fvu == pytest.approx((squared.sum() / ((x - x.mean(0)) ** 2).sum()).item(), rel=1e-5)


def test_a_constant_term_has_no_gradient(config: Make) -> None:
    recipe, state, x = begin(config(sae={"name": "topk", "d_sae": 40, "k": 4}, penalties=[{"name": "auxk"}]))
    sample = sample_gradients(state, step_loss(recipe, state, x))
    assert sample.norms["auxk"] == 0
    assert sample.total_norm == pytest.approx(sample.norms["reconstruction"])
    assert sample.statistics == {"auxk/num_dead": 0, "auxk/unexplained": 0}


def test_only_the_lines_up_to_the_checkpoint_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    kept = b'{"step": 1}\n{"step": 5}\n'
    path.write_bytes(kept + b'{"step": 10}\n{"step": 1')
    log = MetricsLog(path, 5, kept)
    assert path.read_bytes() == kept
    assert log.lines == [{"step": 1}, {"step": 5}]
    assert log.digest() == digest_bytes(kept)
    MetricsLog(path, step=0)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("bad", [b"no JSON", b"[1]", b'{"loss": 1}', b"\xff\xfe"])
def test_a_bad_line_is_named_by_its_number(bad: bytes) -> None:
    with pytest.raises(ValueError, match="line 2 is not a line of a log"):
        parse_lines(b'{"step": 1}\n' + bad + b"\n")
