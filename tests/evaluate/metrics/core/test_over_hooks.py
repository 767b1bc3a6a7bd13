"""Core of crosscoders: means over hooks, and the profile of decoder norms."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.charts import charts_of, table
from saepipe.evaluate.metrics.base import Figure
from saepipe.evaluate.metrics.core.over_hooks import _mean, norm_profile
from saepipe.evaluate.report.charts import by_hook as chart
from saepipe.evaluate.report.story import Story
from saepipe.evaluate.results.result_file import read
from saepipe.evaluate.run import evaluate
from saepipe.evaluate.stats.intervals import Estimate
from saepipe.evaluate.use.finished_run import open_run
from saepipe.train.run import train

HOOKS = ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post"]


def test_latents_are_told_by_the_hooks_that_they_write_at() -> None:
    """Of four latents one writes at both hooks alike, one mostly and one only at the second, and one nowhere."""
    W_dec = torch.tensor([[3.0, 0.0, 3.0], [0.3, 0.0, 2.7], [0.0, 0.0, 5.0], [0.0, 0.0, 0.0]])
    profile = norm_profile(W_dec, (2, 1), (1.0, 1.0), ["a", "b"])
    assert profile["at_hooks"] == {"1": 1, "2": 2}
    assert profile["exclusive"] == {"a": 0, "b": 1}
    assert profile["mean_share"] == pytest.approx({"a": (0.5 + 0.1 + 0) / 3, "b": (0.5 + 0.9 + 1) / 3})
    assert [sum(counts) for counts in profile["histogram"].values()] == [3, 3]
    assert profile["histogram"]["b"][10] == profile["histogram"]["b"][18] == profile["histogram"]["b"][-1] == 1


def test_a_hook_has_no_larger_share_because_its_activations_are_longer() -> None:
    """Raw rows are training's, divided by each hook's scale."""
    trained = torch.nn.functional.normalize(torch.randn(200, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    scales = (0.01, 4.0)
    raw = trained / torch.tensor([scales[0]] * 4 + [scales[1]] * 4)
    profile = norm_profile(raw, (4, 4), scales, ["a", "b"])
    assert profile == norm_profile(trained, (4, 4), (1.0, 1.0), ["a", "b"])
    assert profile["mean_share"]["a"] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ([Estimate(1.0, 0.5, 2.0), Estimate(3.0, 2.5, 4.0)], Estimate(2.0, 1.5, 3.0)),
        ([Estimate(1.0, 0.5, 2.0), 3.0], Estimate(2.0)),
        ([Estimate(1.0), Estimate(None, reason="why")], Estimate(None, reason="why")),
        ([5, 5], 5),
        ([4, 5], 4.5),
    ],
)
def test_the_mean_over_hooks(figures: list[Figure], expected: Figure) -> None:
    assert _mean(figures) == expected


def test_each_hook_is_measured_as_if_it_alone_were_replaced(toy_cache: Path, tmp_path: Path) -> None:
    """Beside it an SAE at one of the hooks: what depends on the model alone is the same there."""
    lenient = {"most_l0": 1.0, "least_variance": -1e9, "least_alive": 0.0}
    config = {"cache": str(toy_cache), "sae": {"name": "topk", "d_sae": 64, "k": 8}, "steps": 60, "batch_size": 256}
    variants = [{"name": "cross", "hooks": HOOKS}, {"name": "sae", "hook": HOOKS[0]}]
    cross, sae = train({**config, "health": lenient, "variants": variants}, tmp_path)
    evaluate([cross, sae], {"metrics": [{"name": "core", "num_contexts": 6}], "features": {"num_tokens": 1000}})
    block = read(cross / "eval" / "core.json")["saepipe"]
    own, other = (open_run(path).metrics["core"] for path in (cross, sae))
    by_hook = block["hooks"]
    assert [*by_hook] == HOOKS
    for key in ("explained_variance", "delta_ce"):
        mean = sum(by_hook[hook][key][0] for hook in HOOKS) / 2
        assert own[key].value == pytest.approx(mean)
    assert own["l0"].value == pytest.approx(8, abs=0.1)
    ablated = (other["ce_loss_without_sae"].value, own["ce_loss_without_sae"].value)
    assert ablated[0] == pytest.approx(ablated[1], abs=1e-3)
    assert sum(block["decoder_norms"]["at_hooks"].values()) == 64
    assert (cross / "features").is_dir()
    section = chart.section(Story.read([cross, sae]))
    assert section is not None
    charts = charts_of(section)
    exclusive = any(block["decoder_norms"]["exclusive"].values())
    names = ("explained-variance", "delta-ce", "mean-share", *(("exclusive",) if exclusive else ()))
    assert [*charts] == [f"crosscoder-{name}" for name in names]
    assert section.absent == (() if exclusive else ("No latent writes at one hook alone.",))
    shown = {row["hook"]: row["explained variance"] for row in table(charts["crosscoder-explained-variance"])}
    assert shown == pytest.approx({hook: by_hook[hook]["explained_variance"][0] for hook in HOOKS}, rel=1e-3)
    shares = [row["share of the norm"] for row in table(charts["crosscoder-mean-share"])]
    assert sum(shares) == pytest.approx(1, abs=1e-3)
    assert chart.section(Story.read([sae])) is None
