"""Which runs are seeds of one variant."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from saepipe.evaluate.sae.siblings import siblings_of_each

pytestmark = pytest.mark.quick


def run(fingerprint: str, seed: int | None, cache: str = "c", variant: str = "base", **settings: Any) -> Any:
    return SimpleNamespace(
        fingerprint=fingerprint,
        variant=variant,
        cache_fingerprint=cache,
        settings={"sae": "relu", "data_seed": 0, **settings, "seed": seed},
    )


def names(ours: Any, *runs: Any) -> list[str]:
    return [other.fingerprint for other in siblings_of_each([ours, *runs])[ours.fingerprint]]


def test_the_other_seeds_in_their_order() -> None:
    assert names(run("a", 1), run("c", 5), run("b", 0)) == ["b", "c"]


def test_a_seed_counts_once_whatever_the_order_of_runs_and_of_data() -> None:
    """Not a second run of one's own seed, with other data either: both began from the same weights."""
    twice = [run("y", 1), run("x", 1, data_seed=3)]
    assert names(run("a", 0), run("z", 0, data_seed=7), *twice) == ["x"]
    assert names(run("a", 0), *reversed(twice)) == ["x"]


def test_other_settings_caches_and_unknown_seeds_do_not_count() -> None:
    others = run("b", 1, sae="topk"), run("c", 1, cache="d"), run("d", None)
    assert names(run("a", 0), *others) == []
    assert names(run("d", None), run("a", 0), run("e", None)) == []


def test_runs_that_start_from_the_sae_of_their_own_seed_are_one_variant() -> None:
    ours = run("a", 0, variant="tuned", init={"scale": 1.0, "weights": "w0"})
    others = [
        run("b", 1, variant="tuned", init={"scale": 1.0, "weights": "w1"}),
        run("c", 2, variant="from-others", init={"scale": 1.0, "weights": "w2"}),
        run("d", 3, variant="tuned", init={"scale": 0.5, "weights": "w3"}),
    ]
    assert names(ours, *others) == ["b"]


class Counted(SimpleNamespace):
    """A run that counts how often its settings are read."""

    reads = 0

    @property
    def settings(self) -> dict[str, Any]:
        Counted.reads += 1
        return {"sae": f"v{self.number % 10}", "seed": self.number // 10}


def test_the_settings_of_a_run_are_not_read_for_each_other_run() -> None:
    runs: list[Any] = [
        Counted(number=n, fingerprint=f"{n:03d}", variant="v", cache_fingerprint="c") for n in range(100)
    ]
    found = siblings_of_each(runs)
    assert [len(siblings) for siblings in found.values()] == [9] * 100
    assert [run.number for run in found["017"]] == [7, *range(27, 100, 10)]
    assert Counted.reads <= 12 * len(runs)  # its family's at the most
