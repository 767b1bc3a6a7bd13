"""The table: which config keys it shows, what it says of each run, and what it refuses to say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from saepipe.data import artifact
from saepipe.data.errors import CorruptDataError
from saepipe.evaluate.compare import Cell, compare
from saepipe.evaluate.envelope import Request, envelope
from saepipe.evaluate.metrics.base import Measurement
from saepipe.evaluate.metrics.core import Core
from saepipe.evaluate.stats import Estimate
from saepipe.train.config import TrainConfig
from saepipe.train.load import open_run


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """A finished run's folder, untrained; `weight` is the one setting that differs between variants."""

    def make(variant: str, seed: int = 0, weight: float = 1.0, study: str = ".") -> Path:
        folder = tmp_path / study / variant / f"seed-{seed}"
        config = TrainConfig.parse(
            {
                "cache": "nowhere",
                "hook": "blocks.1.hook_resid_post",
                "sae": {"name": "relu", "d_sae": 8},
                "penalties": [{"name": "l1", "weight": weight}],
                "steps": 1,
                "seed": seed,
            }
        )
        artifact.write_file(folder / "config.yaml", config.to_yaml().encode())
        header = {"kind": "run", "run_id": "0", "cache": "c", "hook": config.hook, "variant": variant, "seed": seed}
        artifact.rewrite_manifest(folder, [header, {"files": artifact.digest_files(folder, ["config.yaml"])}])
        artifact.commit(folder)
        return folder

    return make


def write_result(
    folder: Path, l0: float = 10.0, ev: float | None = 0.9, tokens: int = 100, warnings: tuple[str, ...] = ()
) -> Path:
    """A core result as an evaluation writes it."""
    run, metric = open_run(folder), Core()
    subject: Any = SimpleNamespace(run=run, name=f"{run.variant}/seed-{run.seed}", cfg={})
    testbed: Any = SimpleNamespace(language_model=SimpleNamespace(identity={"id": "toy"}))
    variance = Estimate(ev, ev - 0.01, ev + 0.01) if ev is not None else Estimate(None, reason="nothing varies")
    measurement = Measurement(
        metrics={
            "sparsity": {"l0": Estimate(l0, l0 - 1, l0 + 1)},
            "reconstruction_quality": {"explained_variance": variance},
        },
        extra={"delta_ce": 0.5},
        reference={"explained_variance": 0.99},
        counts={"tokens": tokens},
        warnings=list(warnings),
    )
    result = envelope(measurement, Request.of(run, metric, 8, "float32"), metric, subject, testbed, "id")
    artifact.write_json(folder / "eval" / "core.json", result)
    return folder


def cells(table, row: int) -> dict[str, Any]:
    return dict(zip(table.columns, table.rows[row], strict=True))


def test_only_differing_keys_are_columns(make_run) -> None:
    table = compare([write_result(make_run("weak", weight=1.0)), write_result(make_run("strong", weight=4.0))])
    assert table.columns[:3] == ("run", "penalties.0.weight", "L0")
    assert [cells(table, row)["penalties.0.weight"] for row in (0, 1)] == ["1.0", "4.0"]
    assert cells(table, 0)["explained variance"] == Cell(0.9, 0.89, 0.91)
    assert str(cells(table, 0)["explained variance"]) == "0.9 ±0.01"


def test_differences_are_from_the_baseline(make_run) -> None:
    base, other = write_result(make_run("base"), ev=0.8), write_result(make_run("other", weight=2.0), ev=0.9)
    table = compare([base, other], baseline=base)
    assert len(table.rows) == 2
    assert cells(table, 0)["explained variance"].difference is None
    assert cells(table, 1)["explained variance"].difference == pytest.approx(0.1)
    assert str(cells(table, 1)["explained variance"]).endswith("(+0.1)")
    assert any("difference from base/seed-0" in note for note in table.notes)


def test_what_was_not_measured_says_so(make_run) -> None:
    table = compare([make_run("bare"), write_result(make_run("measured", weight=2.0), ev=None)])
    assert str(cells(table, 0)["L0"]) == "not measured"
    assert str(cells(table, 1)["explained variance"]) == "undefined"
    assert "explained variance is undefined: nothing varies" in table.notes


def test_warnings_are_repeated_once(make_run) -> None:
    runs = [write_result(make_run(name), warnings=("nothing can be seen",)) for name in ("a", "b")]
    assert compare(runs).notes.count("nothing can be seen") == 1


def test_means_over_seeds(make_run) -> None:
    runs = [write_result(make_run("a", seed), ev=0.8 + 0.1 * seed) for seed in (0, 1)]
    table = compare([*runs, write_result(make_run("b", weight=2.0))])
    assert [row[0] for row in table.rows] == ["a/seed-0", "a/seed-1", "b/seed-0", "a (mean, n=2)"]
    assert cells(table, 3)["explained variance"].value == pytest.approx(0.85)
    assert cells(table, 3)["explained variance"].low is None
    assert str(cells(table, 3)["MSE"]) == "not measured"


def test_one_variant_of_two_studies_is_told_apart(make_run) -> None:
    old, new = make_run("a", study="old"), make_run("a", study="new", weight=2.0)
    assert [row[0] for row in compare([old, new]).rows] == [str(old), str(new)]


def test_unequal_sparsity_is_noted(make_run) -> None:
    near = [write_result(make_run("a"), l0=10.0), write_result(make_run("b", weight=2.0), l0=10.4)]
    assert not any("matched sparsity" in note for note in compare(near).notes)
    far = write_result(make_run("c", weight=3.0), l0=10.6)
    assert any("10 to 10.6: not a comparison at matched sparsity" in note for note in compare([*near, far]).notes)


def test_no_verdict_below_three_seeds(make_run) -> None:
    runs = [write_result(make_run("a", seed)) for seed in range(3)]
    assert any("no verdict" in note for note in compare(runs[:2]).notes)
    assert not any("no verdict" in note for note in compare(runs).notes)


def test_other_heldout_tokens_are_noted(make_run) -> None:
    runs = [write_result(make_run("a"), tokens=100), write_result(make_run("b", weight=2.0), tokens=50)]
    assert any("different held-out tokens" in note for note in compare(runs).notes)


def test_a_result_of_a_run_that_lay_there_before_does_not_count(make_run) -> None:
    folder = write_result(make_run("a", weight=1.0))
    make_run("a", weight=9.0)
    assert str(cells(compare([folder]), 0)["L0"]) == "not measured"


def test_a_foreign_result_is_refused(make_run) -> None:
    folder = make_run("a")
    artifact.write_json(folder / "eval" / "core.json", {"eval_type_id": "core"})
    with pytest.raises(CorruptDataError, match=r"core\.json is no evaluation"):
        compare([folder])


def test_the_table_is_plain_data(make_run) -> None:
    table = compare([write_result(make_run("a"), ev=None)])
    plain = json.loads(table.to_json())
    assert plain["columns"] == list(table.columns)
    assert plain["rows"][0][1]["value"] == 10.0
    assert plain["rows"][0][2]["why"] == "nothing varies"
