"""Whole runs on a small cache."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from helpers.killed_training import KillAfter, Killed
from saepipe.data.batches.stream import BatchStream
from saepipe.data.cache.cache import Cache
from saepipe.data.errors import ConfigError, CorruptDataError, HealthError, LockedError, MachineError
from saepipe.data.folders.artifact import MANIFEST, commit, read_manifest, writer_lock
from saepipe.data.folders.health import Health
from saepipe.data.terminal.progress import Silent
from saepipe.train.config import TrainConfig
from saepipe.train.dry_run import dry_run
from saepipe.train.plan import plan_runs
from saepipe.train.run import train
from saepipe.train.rundir.checkpoint import last_checkpoint, load_checkpoint
from saepipe.train.rundir.finished_run import open_run
from saepipe.train.rundir.load import load
from saepipe.train.step.step import train_step

Make = Callable[..., TrainConfig]
TOPK: dict[str, Any] = {"sae": {"name": "topk", "d_sae": 40, "k": 4}, "penalties": [{"name": "auxk"}]}
VARIANTS = [{"name": "plain"}, {"name": "strong", "penalties.0.weight": 2.0, "steps": 13}, {"name": "topk", **TOPK}]
# Latents die within 34 tokens and are resampled at steps 4, 8, 12, 16, so every part of the state is in use.
LIVELY = {"dead": {"after_tokens": 34, "resample_steps": 4}, "variants": VARIANTS}


def weights(run: Path) -> bytes:
    return (run / "sae" / "sae_weights.safetensors").read_bytes()


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "tokens_per_second"} for line in lines]


def test_a_finished_run(config: Make, tmp_path: Path, tiny_cache: Path) -> None:
    (path,) = train(config(seed=2), tmp_path)
    assert path == tmp_path / "base" / "seed-2"
    assert {item.name for item in path.iterdir()} == {
        *("config.yaml", "manifest.jsonl", "metrics.jsonl", "metrics.seal.json", "health.json", "checkpoints", "sae"),
        *("log", "COMMITTED"),
    }
    header, files = read_manifest(path)
    cache = Cache.open(tiny_cache)
    assert (header["planned_steps"], header["done_steps"], header["cache"]) == (20, 20, cache.fingerprint)
    assert {"penalties.0.name", "penalties.0.weight", "steps"} <= set(header["stated"])
    assert {"optimizer.eps", "health.most_dead"}.isdisjoint(header["stated"])
    assert set(files["files"]) == {"config.yaml", "health.json", "sae/cfg.json", "sae/sae_weights.safetensors"}
    health = Health.read(path)
    assert {finding.rule for finding in health.findings} == {"H9"}  # 20 steps make no good SAE
    assert health.audit["sae"]["num_tokens"] == 8200
    run = open_run(path)
    assert (run.variant, run.seed, run.hook) == ("base", 2, "blocks.1.hook_resid_post")
    assert run.run_id == header["run_id"] == run.config.run_id(cache.fingerprint)
    assert run.config.steps == 20
    sae = load(path)
    assert (sae.architecture, sae.hook, sae.d_in, sae.d_sae) == ("relu", run.hook, 24, 40)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(40))
    assert not any(parameter.requires_grad for parameter in sae.parameters())


@pytest.mark.parametrize("d_sae", [8, 24, 40])  # d_in is 24
def test_rows_not_columns_have_unit_norm(config: Make, tmp_path: Path, d_sae: int) -> None:
    (path,) = train(config(sae={"name": "relu", "d_sae": d_sae}), tmp_path)
    W_dec = load(path).W_dec
    assert W_dec.shape == (d_sae, 24)
    torch.testing.assert_close(W_dec.norm(dim=1), torch.ones(d_sae))
    assert (W_dec.norm(dim=0) - 1).abs().max() > 0.05


def test_training_learns(config: Make, tmp_path: Path, tiny_cache: Path) -> None:
    (path,) = train(config(steps=600, batch_size=64, log_every=100, checkpoint_every=1000), tmp_path)
    assert metrics(path)[-1]["fvu"] < 0.25 * metrics(path)[0]["fvu"]
    # The saved SAE takes raw activations; its error on them must be the error that training logged.
    rows = next(BatchStream(Cache.open(tiny_cache), "blocks.1.hook_resid_post", 2000, 7).batches()).float()
    x_hat = load(path)(rows)
    fvu = (rows - x_hat).square().sum() / (rows - rows.mean(0)).square().sum()
    assert fvu.item() == pytest.approx(metrics(path)[-1]["fvu"], rel=0.2)


def test_the_saved_sae_is_the_trained_one_in_raw_units(config: Make, tmp_path: Path) -> None:
    """SAE(raw) * s == trained(s * raw); `trained` is rebuilt from the last checkpoint and the batches after it."""
    (path,) = train(config(), tmp_path)
    (run,) = plan_runs(config(), tmp_path)
    checkpoint = last_checkpoint(path / "checkpoints", run.run_id)
    assert checkpoint is not None
    assert checkpoint.name == "15"
    state = load_checkpoint(checkpoint, run.recipe)
    with BatchStream(run.cache, "blocks.1.hook_resid_post", 17, 0) as stream:
        for _, rows in zip(range(5), stream.batches(15), strict=False):
            train_step(run.recipe, state, rows)
    raw = rows.float()
    x = run.recipe.scaled(raw)
    assert x.square().sum(1).mean().item() == pytest.approx(24, rel=0.3)
    sae = run.recipe.config.sae
    trained = sae.decode(state.params, sae.encode(state.params, x)).detach()
    torch.testing.assert_close(load(path)(raw) * run.recipe.scale, trained, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sparse_steps", ["never", "always"])
def test_runs_trained_together_equal_runs_trained_alone_bit_for_bit(
    config: Make, tmp_path: Path, sparse_steps: str
) -> None:
    lively = {**LIVELY, "sparse_steps": sparse_steps}
    together = train(config(**lively, seeds=[0, 1]), tmp_path / "together")
    assert len(together) == 6
    for path in together:
        number = [variant["name"] for variant in VARIANTS].index(path.parent.name)
        seed = int(path.name.removeprefix("seed-"))
        alone = config(**{**lively, "variants": [VARIANTS[number]]}, seed=seed)
        (twin,) = train(alone, tmp_path / "alone")
        assert weights(path) == weights(twin)
        assert metrics(path) == metrics(twin)
    assert len({weights(path) for path in together}) == 6


def test_logging_and_checkpoints_change_nothing(config: Make, tmp_path: Path) -> None:
    (rarely,) = train(config(log_every=100, checkpoint_every=100), tmp_path / "rarely")
    (always,) = train(config(log_every=1, checkpoint_every=1), tmp_path / "always")
    assert weights(rarely) == weights(always)
    assert open_run(rarely).run_id == open_run(always).run_id


def test_the_global_generator_is_neither_read_nor_advanced(config: Make, tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    (first,) = train(config(**{**LIVELY, "variants": []}), tmp_path / "first")
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    (second,) = train(config(**{**LIVELY, "variants": []}), tmp_path / "second")
    assert weights(first) == weights(second)


def test_seed_sets_the_initialisation_and_data_seed_the_order(config: Make, tmp_path: Path) -> None:
    runs = {}
    for seed, data_seed in ((0, 0), (1, 0), (0, 1)):
        (path,) = train(config(seed=seed, data_seed=data_seed, steps=1), tmp_path / f"{seed}{data_seed}")
        runs[seed, data_seed] = metrics(path)[0]["loss"]
    assert len(set(runs.values())) == 3


@pytest.mark.parametrize(
    ("batches", "sparse_steps"), [(3, "never"), (10, "never"), (14, "never"), (17, "never"), (14, "always")]
)
def test_a_killed_training_is_resumed_bit_for_bit(
    config: Make, tmp_path: Path, batches: int, sparse_steps: str
) -> None:
    """Killed twice, the second time soon after it was resumed; some checkpoints lie between two log lines."""
    lively = config(**LIVELY, sparse_steps=sparse_steps, log_every=7)
    uninterrupted = train(lively, tmp_path / "uninterrupted")
    parts = tmp_path / "parts"
    for num_batches in (batches, 2):
        with pytest.raises(Killed):
            train(lively, parts, progress=KillAfter(num_batches))
    (parts / "plain" / "seed-0" / "metrics.jsonl").open("a").write('{"step": 9, "tor')
    resumed = train(lively, parts, resume="must")
    for run, twin in zip(resumed, uninterrupted, strict=True):
        assert weights(run) == weights(twin)
        assert (run / "manifest.jsonl").read_bytes() == (twin / "manifest.jsonl").read_bytes()
        assert metrics(run) == metrics(twin)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_a_sample_that_waits_for_its_line_survives_a_kill(
    config: Make, tmp_path: Path, exact: bool, known: bool
) -> None:
    """A checkpoint of an earlier version knows no sample; the line then samples its own step."""
    settings = config(log_every=18, checkpoint_every=6, exact=exact, seeds=[0, 1])
    uninterrupted = train(settings, tmp_path / "uninterrupted")
    with pytest.raises(Killed):
        train(settings, tmp_path / "parts", progress=KillAfter(17))
    for index in (tmp_path / "parts").glob("*/*/checkpoints/12/state.json"):
        raw = json.loads(index.read_text())
        sample = json.loads(raw.pop("sampled"))
        assert sample["step"] == metrics(uninterrupted[0])[1]["gradients_at"] <= 12
        if not known:
            index.write_text(json.dumps({key: raw[key] for key in raw.keys() - {"log", "header", "seal"}}))
    for run, twin in zip(train(settings, tmp_path / "parts", resume="must"), uninterrupted, strict=True):
        assert weights(run) == weights(twin)
        lines, expected = metrics(run), metrics(twin)
        assert lines[1].pop("gradients_at") == (expected[1].pop("gradients_at") if known else 18)
        assert lines[1]["terms"]["l1"]["value"] == expected[1]["terms"]["l1"]["value"]
        assert (lines == expected) == known or lines[1]["gradient_norm"] != expected[1]["gradient_norm"]


def test_a_resumed_run_is_trained_beside_a_variant_that_fails_its_dry_step(config: Make, tmp_path: Path) -> None:
    sound = {"name": "sound"}
    lenient = {"most_l0": 1.0, "least_variance": -1e9}  # 20 steps make no good SAE
    (uninterrupted,) = train(config(variants=[sound]), tmp_path / "uninterrupted")
    with pytest.raises(Killed):
        train(config(variants=[sound]), tmp_path / "parts", progress=KillAfter(12))
    broken = {"name": "broken", "optimizer": {"lr": 1e38, "clip": None, "warmup": 0}}
    with pytest.raises(HealthError, match=r"1 of 2 runs failed:\n.*broken/seed-0: H7 error"):
        train(config(variants=[sound, broken], health=lenient), tmp_path / "parts", strict=True)
    assert weights(open_run(tmp_path / "parts" / "sound" / "seed-0").path) == weights(uninterrupted)


def test_damaged_checkpoints_are_skipped(config: Make, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(config(), tmp_path, progress=KillAfter(17))
    folder = tmp_path / "base" / "seed-0" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["10", "15"]
    run_id = json.loads((folder / "15" / "state.json").read_text())["run_id"]
    (folder / "15" / "state.safetensors").write_bytes(b"other")
    (folder / "16").mkdir()
    checkpoint = last_checkpoint(folder, run_id)
    assert checkpoint is not None
    assert checkpoint.name == "10"
    assert last_checkpoint(folder, "another run") is None
    (resumed,) = train(config(), tmp_path)
    (uninterrupted,) = train(config(), tmp_path / "uninterrupted")
    assert weights(resumed) == weights(uninterrupted)


def test_a_checkpoint_holds_the_whole_state(config: Make, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(config(**TOPK), tmp_path, progress=KillAfter(5))
    held = load_file(tmp_path / "base" / "seed-0" / "checkpoints" / "5" / "state.safetensors")
    moments = {
        f"adam/{name}/{key}"
        for name in ("W_enc", "b_enc", "W_dec", "b_dec")
        for key in ("exp_avg", "exp_avg_sq", "step")
    }
    assert set(held) == moments | {f"params/{name}" for name in ("W_enc", "b_enc", "W_dec", "b_dec")} | {
        "sums",
        "tokens_since_fired",
    }


def test_another_config_is_refused_with_its_differences(config: Make, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(config(), tmp_path, progress=KillAfter(7))
    with pytest.raises(ConfigError, match=r"optimizer\.lr: 0\.003 -> 0\.01"):
        train(config(optimizer={"lr": 1e-2}), tmp_path)
    (path,) = train(config(log_every=1), tmp_path)  # logging does not change the run
    assert open_run(path).config.log_every == 1


def test_another_cache_is_refused(config: Make, tmp_path: Path, tiny_cache: Path) -> None:
    train(config(), tmp_path / "out")
    other = tmp_path / "cache"
    shutil.copytree(tiny_cache, other)
    lines = (other / MANIFEST).read_text()
    (other / MANIFEST).write_text(lines + '{"kind": "metadata", "files": {}}\n')
    commit(other)
    with pytest.raises(ConfigError, match="the cache's content"):
        train(config(cache=str(other)), tmp_path / "out")


def test_finished_runs_are_left_as_they_are(config: Make, tmp_path: Path) -> None:
    (first,) = train(config(), tmp_path)
    inode = (first / "sae" / "cfg.json").stat().st_ino
    progress = Silent()
    variants = [{"name": "base"}, {"name": "new", "optimizer.lr": 1e-2}]
    paths = train(config(variants=variants), tmp_path, progress=progress)
    assert [path.parent.name for path in paths] == ["base", "new"]
    assert (first / "sae" / "cfg.json").stat().st_ino == inode
    assert "1 of 2 runs are already finished" in progress.said


def test_resume_never_and_must(config: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run to resume"):
        train(config(), tmp_path, resume="must")
    train(config(), tmp_path, resume="never")
    with pytest.raises(ConfigError, match="already holds a run"):
        train(config(), tmp_path, resume="never")


def test_a_variant_that_breaks_stops_alone(config: Make, tmp_path: Path) -> None:
    variants = [{"name": "sound"}, {"name": "broken", "optimizer": {"lr": 1e38, "clip": None, "warmup": 0}}]
    with pytest.raises(HealthError, match=r"1 of 2 runs failed:\n.*broken/seed-0: H7 .*not finite at step"):
        train(config(variants=variants, log_every=1), tmp_path)
    health = json.loads((tmp_path / "broken" / "seed-0" / "health.json").read_text())
    assert {finding["rule"] for finding in health["findings"]} == {"H7"}
    with pytest.raises(CorruptDataError, match="not finished"):
        load(tmp_path / "broken" / "seed-0")
    (alone,) = train(config(), tmp_path / "alone")
    assert weights(tmp_path / "sound" / "seed-0") == weights(alone)


def test_a_run_that_did_not_move_is_not_committed(config: Make, tmp_path: Path) -> None:
    with pytest.raises(HealthError, match="training moved W_enc by"):
        train(config(optimizer={"lr": 1e-12}), tmp_path)
    assert not (tmp_path / "base" / "seed-0" / "COMMITTED").exists()


def test_a_damaged_run_names_the_file(config: Make, tmp_path: Path) -> None:
    (path,) = train(config(), tmp_path)
    file = path / "sae" / "sae_weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptDataError, match=r"sae_weights\.safetensors"):
        load(path)


def test_two_writers(config: Make, tmp_path: Path) -> None:
    with writer_lock(tmp_path / "base" / "seed-0"), pytest.raises(LockedError):
        train(config(), tmp_path)


def test_metrics_are_means_since_the_last_line(config: Make, tmp_path: Path) -> None:
    (every,) = train(config(log_every=1), tmp_path / "every")
    (fifth,) = train(config(log_every=5), tmp_path / "fifth")
    single, lines = metrics(every), metrics(fifth)
    assert [line["step"] for line in lines] == [1, 5, 10, 15, 20]
    for line in lines[1:]:
        summed = [each for each in single if max(1, line["step"] - 5) < each["step"] <= line["step"]]
        for name in ("reconstruction", "l1"):
            mean = sum(each["terms"][name]["weighted"] for each in summed) / len(summed)
            assert line["terms"][name]["weighted"] == pytest.approx(mean)
        assert line["loss"] == pytest.approx(sum(term["weighted"] for term in line["terms"].values()))
        assert sum(term["gradient_share"] for term in line["terms"].values()) == pytest.approx(1)
        assert line["l0"] == single[line["step"] - 1]["l0"]
        assert line["tokens"] == 17 * line["step"]
        sampled = single[line["gradients_at"] - 1]
        assert max(1, line["step"] - 5) < line["gradients_at"] <= line["step"]
        assert line["gradient_norm"] == sampled["gradient_norm"]
        for name, term in line["terms"].items():
            assert term["gradient_share"] == sampled["terms"][name]["gradient_share"]
    assert all(line["gradients_at"] == line["step"] for line in single)
    assert [line["lr"] for line in single[:2]] == pytest.approx([3e-3, 3e-3])
    assert single[-1]["lr"] == pytest.approx(3e-3 / 4)


def test_both_compute_dtypes_train(config: Make, tmp_path: Path) -> None:
    variants = [{"name": "single", "compute_dtype": "float32"}, {"name": "half", "compute_dtype": "bfloat16"}]
    single, half = train(config(variants=variants, steps=100), tmp_path)
    assert weights(single) != weights(half)
    assert metrics(half)[-1]["fvu"] == pytest.approx(metrics(single)[-1]["fvu"], rel=0.1)


def test_the_dry_run_trains_nothing(config: Make, tmp_path: Path) -> None:
    planned = dry_run(config(variants=VARIANTS, seeds=[0, 1], steps=1000), seconds=0)
    assert planned.streams == 1
    assert len(planned.runs) == 6
    run = planned.runs[0]
    assert (run.run, run.steps, run.tokens) == ("plain/seed-0", 1000, 17_000)
    assert run.passes == pytest.approx(17_000 / 8200)
    assert run.sae_bytes == 4 * (2 * 24 * 40 + 40 + 24)
    assert planned.runs[2].steps == 13


def test_runs_that_read_different_batches_have_streams_of_their_own(config: Make, tmp_path: Path) -> None:
    variants = [{"name": "a"}, {"name": "b", "data_seed": 4}, {"name": "c", "batch_size": 8}]
    assert dry_run(config(variants=variants), seconds=0).streams == 3
    assert [path.parent.name for path in train(config(variants=variants), tmp_path)] == ["a", "b", "c"]


def test_more_than_one_pass_is_reported(config: Make, tmp_path: Path) -> None:
    progress = Silent()
    train(config(batch_size=1000, steps=10), tmp_path, progress=progress)
    assert "10 steps of 1000 read the 8,200 cached rows 1.2 times" in progress.said


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"hook": "blocks.9.hook_resid_post"}, ConfigError, "blocks.1.hook_resid_post"),
        ({"device": "gpu"}, ConfigError, "device = 'gpu'"),
        ({"cache": "nowhere"}, ConfigError, "does not exist"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    config: Make, tmp_path: Path, changes: dict[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(config(**changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu(config: Make, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="no device 'cuda'"):
        train(config(device="cuda"), tmp_path)


def test_a_cache_with_several_hooks_needs_a_named_hook(config: Make, toy_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"blocks\.1\.hook_resid_post, blocks\.2\.hook_resid_post"):
        train(config(cache=str(toy_cache)), tmp_path)
