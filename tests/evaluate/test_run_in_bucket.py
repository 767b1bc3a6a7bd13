"""The whole pipeline in a bucket of which every twentieth request fails: the figures of folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helpers.faulty_proxy import every_twentieth
from helpers.object_storage import ObjectStorage
from saepipe.data.bucket_address import mirrors
from saepipe.evaluate.compare.table import compare
from saepipe.evaluate.report.run import report
from saepipe.evaluate.run import evaluate
from saepipe.evaluate.verify.run import verify
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.run import harvest
from saepipe.train.run import train


def pipeline(place: str, config: HarvestConfig) -> None:
    """Harvests, trains two runs, and evaluates and reports them at a place."""
    harvest(config, f"{place}/cache")
    settings: dict[str, Any] = {"cache": f"{place}/cache", "hook": config.hooks[1], "seeds": [0, 1], "device": "cpu"}
    settings |= {"sae": {"name": "topk", "d_sae": 64, "k": 4}, "steps": 30, "batch_size": 256}
    train(settings | {"checkpoint_every": 20, "log_every": 10}, f"{place}/runs")
    evaluate(f"{place}/runs", {"metrics": [{"name": "core"}], "device": "cpu"})
    report(f"{place}/runs", f"{place}/report.html")


def figures(result: bytes) -> dict[str, Any]:
    return dict(json.loads(result)["eval_result_metrics"])


def test_the_whole_pipeline_gives_the_same_in_a_bucket_with_faults(
    object_storage: ObjectStorage, toy_config: HarvestConfig, tmp_path: Path
) -> None:
    pipeline(str(tmp_path), toy_config)
    object_storage.proxy.fault = every_twentieth()
    pipeline(str(object_storage.address), toy_config)
    object_storage.other_machine()
    table = compare(object_storage.at("runs"))
    assert verify(Path(object_storage.at("runs"))).damaged == []
    assert object_storage.proxy.num_faults > 10
    object_storage.proxy.fault = lambda method, path: None

    ours = object_storage.contents()
    names = {p.relative_to(tmp_path).as_posix(): p for p in tmp_path.rglob("*") if p.is_file()}
    theirs = {name: path.read_bytes() for name, path in names.items() if not name.startswith("machines/")}
    assert ours.keys() == {name for name in theirs if not name.endswith(("lock", "lock.owner"))}
    same = [name for name in theirs if name.startswith("cache") or name.endswith((".safetensors", "health.json"))]
    same = [name for name in same if "/log/" not in name and "/checkpoints/" not in name]
    assert [name for name in same if ours[name] != theirs[name]] == []
    assert any(name.startswith("cache.artifacts/") for name in same)
    for name in (f"runs/base/seed-{seed}/eval/core.json" for seed in (0, 1)):
        assert figures(ours[name]) == figures(theirs[name])
    assert table.to_dict()["rows"] == compare(tmp_path / "runs").to_dict()["rows"]
    assert not any(str(mirrors()).encode() in content for content in ours.values()), "no path of this machine"
