"""bench/gpu.py, every line that runs on a CPU."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.repository import BENCH

sys.path.append(str(BENCH))

import gpu
from gpu_parts import aims, contenders, kernel_cases, plain, settled
from gpu_parts.material import Rows
from gpu_parts.scale import tiny
from gpu_parts.session import Session
from gpu_parts.timing import Budget

from saepipe.train.kernels import cpu
from saepipe.train.sae.topk import TopK
from saepipe.train.step.step import step_loss

SCALE = tiny()


@pytest.fixture
def rows() -> torch.Tensor:
    return Rows(SCALE.d_in, SCALE.device).sample(SCALE.batch)


def session(seconds: float, folder: Path) -> Session:
    return Session(SCALE, Budget.of(seconds), folder, kernels_right=True, keep=lambda figures: None)


def run(monkeypatch: pytest.MonkeyPatch, out: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Runs the script in its tiny mode; returns its exit code and its result file."""
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--tiny", "--out", str(out), *arguments])
    return gpu.main(), json.loads(out.read_text())


def test_the_most_telling_part_comes_first() -> None:
    assert list(gpu.PARTS) == ["kernels", "steps", "reference", "harvest", "screen", "ceilings", "loader"]
    assert gpu.with_kernels(["harvest", "steps"], {}) == ["kernels", "steps", "harvest"]


def test_a_run_cut_short_leaves_what_was_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Cut between two widths: by then the kernels and the first width are in the file."""

    def cut() -> None:
        raise KeyboardInterrupt

    out = tmp_path / "gpu.json"
    monkeypatch.setattr(torch.compiler, "reset", cut)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, out, "--parts", "kernels", "steps", "harvest")
    result = json.loads(out.read_text())
    assert result["parts"]["kernels"]["right"]
    assert list(result["parts"]["steps"]) == ["relu 64"]
    assert result["parts"]["steps"]["relu 64"]["contenders"]["plain, compiled"]["ms"] > 0
    assert "harvest" not in result["parts"]


def test_a_later_call_adds_to_the_file_unless_device_or_commit_differ(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "gpu.json"
    run(monkeypatch, out, "--parts", "ceilings")
    _, both = run(monkeypatch, out, "--parts", "loader")
    assert both["parts"].keys() == {"ceilings", "loader"}
    result = json.loads(out.read_text())
    result["versions"]["commit"] += "-dirty"  # because the result was written into the checkout
    out.write_text(json.dumps(result))
    assert gpu.earlier_parts(out, {"device": result["device"], "commit": "tests"}).keys() == {"ceilings", "loader"}
    assert gpu.earlier_parts(out, {"device": result["device"], "commit": "others"}) == {}
    assert gpu.earlier_parts(out, {"device": {"name": "another"}, "commit": "tests"}) == {}


def test_a_wrong_kernel_is_named_and_not_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    right = cpu.decode_t
    monkeypatch.setattr(cpu, "decode_t", lambda pattern, values, A: 1.01 * right(pattern, values, A))
    code, result = run(monkeypatch, tmp_path / "gpu.json", "--parts", "steps")  # needs the kernels
    assert code == 1
    kernels = result["parts"]["kernels"]
    assert not kernels["right"]
    assert "ms" not in kernels
    wrong = {line.split(" at ")[0] for line in kernels["wrong"]}
    in_steps = {f"gradient of {name} in a whole step" for name in ("W_dec", "W_enc", "b_enc", "b_dec", "threshold")}
    products = {"decode_t", "gradient of W_dec", "gradient of W_enc"}
    assert products <= wrong <= products | in_steps
    assert wrong & in_steps
    timed = result["parts"]["steps"]["relu 64"]["contenders"]
    assert "dense" in timed
    assert not [name for name in timed if name.startswith("sparse")]


def test_a_kernel_that_gives_nan_is_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    right = cpu.sampled
    monkeypatch.setattr(cpu, "sampled", lambda pattern, A, W: right(pattern, A, W) / 0)
    code, result = run(monkeypatch, tmp_path / "gpu.json", "--parts", "kernels")
    assert code == 1
    assert any(line.startswith("sampled at ") for line in result["parts"]["kernels"]["wrong"])


def test_a_failing_contender_is_recorded_and_the_others_continue(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("CUDA error: unknown error")

    monkeypatch.setattr(contenders, "compiled_step", broken)
    result = gpu.steps.measure(session(60.0, tmp_path))
    assert len(list(gpu.failures(result))) == len(settled.ARCHITECTURES)
    for name in settled.ARCHITECTURES:
        timed = result[f"{name} 64"]["contenders"]
        assert timed[contenders.COMPILED] == {"failed": "RuntimeError: CUDA error: unknown error"}
        assert timed["sparse"]["ms"] > 0
        assert timed[contenders.GRAPHED] == {"skipped": "CUDA graphs need CUDA"}
    compiled = [name for name in settled.ARCHITECTURES if contenders.INDUCTOR in result[f"{name} 64"]["contenders"]]
    assert compiled == [settled.ARCHITECTURES[0]]


def test_widths_without_time_left_are_recorded_as_skipped(tmp_path: Path) -> None:
    result = gpu.steps.measure(session(-1.0, tmp_path))
    assert result == {f"{name} 64": {"skipped": "the part's time was up"} for name in settled.ARCHITECTURES}


def test_awkward_cases_have_empty_and_long_rows_and_columns() -> None:
    patterns = [case.pattern for case in kernel_cases.awkward_cases(SCALE, torch.float32)]
    in_rows = [pattern.row_starts.diff() for pattern in patterns]
    in_columns = [pattern.by_column.starts.diff() for pattern in patterns]
    assert any((counts == 0).any() and (counts > 0).any() for counts in in_rows)
    assert any((counts == 0).any() and (counts > 0).any() for counts in in_columns)
    assert any(pattern.num_entries == 0 for pattern in patterns)
    assert max(int(counts.max()) for counts in in_columns) > 512


@pytest.mark.parametrize("name", settled.ARCHITECTURES)
def test_a_settled_sae_has_the_requested_density(name: str, rows: torch.Tensor) -> None:
    sae = settled.settle(SCALE, name, 64, rows)
    recipe, state = settled.new_run(SCALE, sae, "never", 0)
    acts = step_loss(recipe, state, recipe.scaled(rows)).ctx.acts
    assert float((acts > 0).sum(1).float().mean()) == pytest.approx(SCALE.active, rel=0.02)
    assert sae.l0 == pytest.approx(SCALE.active, rel=0.02)


@pytest.mark.parametrize("name", settled.ARCHITECTURES)
def test_the_plain_sae_does_the_same_work(name: str, rows: torch.Tensor) -> None:
    """Compares loss and gradients, except those of a jumprelu's thresholds, on which papers differ."""
    sae = settled.settle(SCALE, name, 64, rows)
    recipe, state = settled.new_run(SCALE, sae, "never", 0)
    x = recipe.scaled(rows)
    ours = step_loss(recipe, state, x).total
    leaves = {key: value.clone().requires_grad_() for key, value in sae.params.items()}
    theirs = plain.LOSSES[name](leaves, x, torch.float32, SCALE.active)
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=0)
    names = ("W_enc", "b_enc", "W_dec", "b_dec")
    gradients = torch.autograd.grad(ours, [state.params[key] for key in names])
    for key, gradient, expected in zip(
        names, torch.autograd.grad(theirs, [leaves[key] for key in names]), gradients, strict=True
    ):
        if key == "W_dec":  # ours removes the part along a row, and L1 counts a row's length
            gradient, expected = (across(part, sae.params["W_dec"]) for part in (gradient, expected))
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_aims_are_judged_by_their_limits() -> None:
    parts: Mapping[str, Any] = {
        "harvest": {"context 128": {"ratio": 0.9}, "context 1024": {"ratio": 0.8}},
        "steps": {
            "topk 65536": {"contenders": {"plain, compiled": {"ms": 30.0}, "sparse": {"ms": 10.0}}},
            "relu 2304": {"contenders": {"dense": {"ms": 1.0}, "dense, graphed": {"ms": 0.5}}},
        },
        "screen": {"topk 65536": {"ms": {"unscreened": 9.0, "screened": 4.0}}},
        "reference": {"seconds": 61.0},
    }
    judged = aims.judge(parts)
    assert [line.verdict for line in judged] == ["met", "missed", "not measured", "met", "met", "met", "missed"]
    assert judged[2].number is None
    assert judged[2].why
    assert judged[3].number == pytest.approx(3.0)


def test_a_screen_that_misses_entries_is_a_failure_and_not_timed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    result = gpu.screen.measure(session(60.0, tmp_path))
    assert result["topk 64"]["ms"].keys() == {"unscreened", "screened"}
    assert list(gpu.failures(result)) == []
    monkeypatch.setattr(TopK, "floor", lambda self, params, upper, spread: upper.float().amax(1, keepdim=True))
    result = gpu.screen.measure(session(60.0, tmp_path))
    (failure,) = gpu.failures(result)
    assert "misses" in failure
    assert result["topk 64"]["missed"] > 0
    assert "ms" not in result["topk 64"]


def test_failures_are_found_at_any_depth() -> None:
    result = {"steps": {"relu 64": {"contenders": {"sparse": {"failed": "no"}}}}, "kernels": {"failed": "2 are wrong"}}
    assert set(gpu.failures(result)) == {"steps, relu 64, contenders, sparse: no", "kernels: 2 are wrong"}
    assert list(gpu.failures({"loader": {"gb_s": 1.0}})) == []


def test_without_a_gpu_only_the_tiny_mode_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit, match="no CUDA device"):
        gpu.main()


def test_the_full_scale_is_the_reference_experiment() -> None:
    scale = gpu.full(torch.device("cpu"))
    assert scale.reference_steps == 10_000_000 // scale.reference_batch
    assert sum(scale.seconds.values()) <= 450
    assert replace(scale, rounds=1).seconds.keys() == gpu.PARTS.keys()


def across(gradient: torch.Tensor, W_dec: torch.Tensor) -> torch.Tensor:
    """Returns the part of a gradient (d_sae, d_in) that is perpendicular to the unit rows of W_dec."""
    return gradient - (gradient * W_dec).sum(1, keepdim=True) * W_dec
