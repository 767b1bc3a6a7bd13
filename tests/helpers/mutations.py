"""Faults that the health rules must find, at least one per rule; the tests and the table in docs/health.md use them.

python bench/mutations.py
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import Tensor

from helpers.made_results import write_result, write_run
from helpers.probed_sae import probed
from saepipe.data.batches.stream import BatchStream
from saepipe.data.errors import ConfigError, HealthError
from saepipe.data.folders import artifact
from saepipe.data.folders.health import Health
from saepipe.data.folders.sealed_result import write_result as write_sealed
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.compare.proxy_l0 import PROXY
from saepipe.evaluate.compare.table import compare
from saepipe.train.config import TrainConfig
from saepipe.train.run import train
from saepipe.train.step.optim import update

L1 = {"name": "l1", "weight": 1.0, "warmup": 0.1}
SEPARATE = {"name": "topk_orthogonality", "weight": 1.0}
ABSORPTION = {"name": "absorption", "weight": 3.0, "tau": 0.1, "min_firings": 10, "min_expected_joint": 1}


@dataclass(frozen=True)
class World:
    """A small cache, and the folder for the runs of one mutation."""

    cache: Path
    folder: Path

    def train(self, **changes: Any) -> list[str]:
        """Trains a small run, or its variants, with some keys of its config changed; returns what is reported."""
        try:
            runs = train(self.config(**changes), self.folder)
        except ConfigError as error:
            return [f"config error: {error.message}"]
        except HealthError as error:
            return error.message.splitlines()[1:]
        return [str(finding) for run in runs for finding in Health.read(run).findings]

    def config(self, **changes: Any) -> TrainConfig:
        """Returns the config of a sound run, which ends with an L0 near 5, 80 % explained variance and no finding."""
        raw = {
            "cache": str(self.cache),
            "sae": {"name": "relu", "d_sae": 40},
            "penalties": [L1],
            "steps": 200,
            "batch_size": 64,
            "optimizer": {"lr": 1e-2},
            "init": {"b_dec_rows": 1000},
            "log_every": 10,
            "device": "cpu",
            "health": {"contract": False},
            "plugins": [str(Path(__file__).with_name("faulty_penalties.py"))],
        }
        return TrainConfig.parse({**raw, **changes})

    def compared(
        self, *runs: str, edit: Callable[[dict[str, Any]], Any] = lambda result: None, **l0: float
    ) -> list[str]:
        """Returns what a comparison with the first run reports; `l0` is by run, `edit` changes the last evaluation."""
        folders = [self.folder / run / "seed-0" for run in runs]
        for folder in folders:
            write_result(folder, {"l0": l0.get(folder.parent.name, 4.0)})
        last = folders[-1] / "eval" / "core.json"
        result = json.loads(last.read_text())
        edit(result)
        write_sealed(last, result)
        table = compare(folders, baseline=folders[0])
        return list(map(str, (*table.notes, *table.verdicts)))


@dataclass(frozen=True)
class Mutation:
    """A fault, and the report that it must cause."""

    rule: str
    fault: str
    words: str
    """Part of the message that must be reported."""
    inject: Callable[[World], list[str]]
    """Injects the fault and returns what is reported."""


def penalties(*more: Mapping[str, Any]) -> Callable[[World], list[str]]:
    return lambda world: world.train(penalties=[L1, *more])


def changed(**changes: Any) -> Callable[[World], list[str]]:
    return lambda world: world.train(**changes)


def variants(*overrides: Mapping[str, Any], **changes: Any) -> Callable[[World], list[str]]:
    named = [{"name": name, **keys} for name, keys in zip("ab", overrides, strict=True)]
    return lambda world: world.train(variants=named, **changes)


def compared(**keys: Any) -> Callable[[World], list[str]]:
    def inject(world: World) -> list[str]:
        world.train(variants=[{"name": "a"}, {"name": "b", "penalties.0.weight": 1.1}])
        return world.compared("a", "b", **keys)

    return inject


def with_wrong_axis(world: World) -> list[str]:
    """Normalises along the wrong axis, as the studies did: each input coordinate has unit norm over the latents."""

    def update_wrongly(params: Mapping[str, Any], *args: Any) -> None:
        update(params, *args)
        params["W_dec"].data.div_(params["W_dec"].data.norm(dim=0, keepdim=True))

    with patch("saepipe.train.step.step.update", update_wrongly):
        return world.train()


def with_a_short_stream(world: World) -> list[str]:
    batches = BatchStream.batches

    def short(self: BatchStream, *place: Any, **end: Any) -> Iterator[Tensor]:
        yield from islice(batches(self, *place, **end), 50)

    with patch.object(BatchStream, "batches", short):
        return world.train()


def with_another_commit(world: World) -> list[str]:
    class Killed(Exception):  # noqa: N818 - a crash, not an error
        pass

    class KillAt(Silent):
        def advance(self, amount: int, *, of: str = "", **figures: float) -> None:
            if figures and (world.folder / "base" / "seed-0" / "checkpoints").exists():
                raise Killed

    with suppress(Killed):
        train(world.config(checkpoint_every=50), world.folder, progress=KillAt())
    with patch.dict(artifact.provenance(), commit="another"):
        return world.train(checkpoint_every=50)


def with_a_changed_plugin(world: World) -> list[str]:
    text = "from typing import Literal\nfrom saepipe.train.penalties.l1 import L1\n"
    text += "class Mine(L1):\n    name: Literal['fault_mine'] = 'fault_mine'\n"
    plugin = world.folder / "mine.py"
    plugin.parent.mkdir(parents=True, exist_ok=True)
    changes = {"plugins": [str(plugin)], "penalties": [{**L1, "name": "fault_mine"}]}
    plugin.write_text(text)
    world.train(**changes)
    plugin.write_text(f"{text}SIGN = -1\n")
    return world.train(**changes)


def evaluated(*variances: float | None, clean: float = 3.0, **config: Any) -> Callable[[World], list[str]]:
    """Compares a variant that has these explained variances, one per seed, with a baseline that always has 0.8.

    `clean` is the model's own loss in the variant's last evaluation, 3 in all others; `config` changes all configs.
    """

    def inject(world: World) -> list[str]:
        runs = []
        for weight, side in ((1.0, [0.8] * len(variances)), (2.0, variances)):
            for seed, variance in enumerate(side):
                folder = world.folder / f"weight-{weight:g}" / f"seed-{seed}"
                run = write_run(folder, penalties=[{"name": "l1", "weight": weight}], **config)
                loss = clean if side is variances and seed == len(variances) - 1 else 3.0
                figures = {"l0": 4.0, "explained_variance": variance, "ce_loss_without_sae": loss}
                runs.append(write_result(run, figures))
        table = compare(runs, baseline=runs[0])
        return list(map(str, (*table.notes, *table.verdicts)))

    return inject


def with_a_control_as_good(world: World) -> list[str]:
    """Compares a variant that gains 0.1 with a baseline and with its own frozen arm, which gains as much."""
    sides: dict[str, tuple[dict[str, Any], tuple[float, float, float]]] = {
        "weight-1": ({}, (0.8, 0.8, 0.8)),
        "weight-2": ({}, (0.9, 0.901, 0.902)),
        "weight-2-frozen": ({"freeze": "decoder"}, (0.902, 0.9, 0.901)),
    }
    runs = []
    for name, (changes, variances) in sides.items():
        for seed, variance in enumerate(variances):
            weight = {"penalties": [{"name": "l1", "weight": float(name[7])}]}
            run = write_run(world.folder / name / f"seed-{seed}", **weight, **changes)
            runs.append(write_result(run, {"l0": 4.0, "explained_variance": variance}))
    return list(map(str, compare(runs, baseline=runs[0]).notes))


def with_a_stale_result(world: World) -> list[str]:
    return compared(edit=lambda result: result["saepipe"]["fingerprints"].update(run="0" * 64))(world)


def with_arms_far_from_the_proxy(world: World) -> list[str]:
    """Compares an arm with the first variant of a sweep whose decoder rows overlap least near L0 16, with 3 seeds."""
    runs = []
    for index, (l0, overlap) in enumerate({4.0: 0.14, 8.0: 0.11, 16.0: 0.1, 32.0: 0.12, 4.1: 0.14}.items()):
        name, more = ("arm", [{"name": "ortsae", "weight": 1.0}]) if l0 == 4.1 else (f"l0-{l0:g}", [])
        penalties = [{"name": "l1", "weight": 4.0 / (1 + index)}, *more]
        for seed in range(3):
            run = write_run(world.folder / name / f"seed-{seed}", penalties=penalties)
            runs.append(write_result(run, {"l0": l0, PROXY: overlap}))
    table = compare(runs, baseline=runs[0])
    return list(map(str, (*table.notes, *table.verdicts)))


STEERED = {"name": "l0_target", "l0": 8.0, "weight": 1.0, "gain": 1e-6}

MUTATIONS = (
    Mutation("H1", "tau = 0.999, which no pair reaches", "was exactly 0 in", penalties({**SEPARATE, "tau": 0.999})),
    Mutation("H1", "a weight of 1e-12", "had a gradient of at most", penalties({**SEPARATE, "weight": 1e-12})),
    Mutation("H1", "a weight of 1e-5", "is too weak to matter", penalties({**SEPARATE, "weight": 1e-5})),
    Mutation("H1", "a weight of 1e4", "dominates the loss", penalties({**SEPARATE, "weight": 1e4})),
    Mutation(
        "H1", "a penalty that is 0 after 60 % of the run", "H1 warning", penalties({"name": "fault_dies", "weight": 1})
    ),
    Mutation(
        "H2",
        "two values of tau that no pair reaches",
        "bit-identical to a/seed-0's, although the configs differ in penalties.1.tau: 0.99 -> 0.999",
        variants({"penalties.1.tau": 0.99}, {"penalties.1.tau": 0.999}, penalties=[L1, SEPARATE]),
    ),
    Mutation(
        "H3",
        "a setting that changes only the last bits",
        "W_dec equals a/seed-0's (relative difference",
        variants({"optimizer.eps": 1e-8}, {"optimizer.eps": 1.001e-8}, steps=20),
    ),
    Mutation(
        "H4",
        "ratio conditional with rho = 5",
        "config error: config: 1 mistake\n  penalties.1",
        penalties({**ABSORPTION, "ratio": "conditional", "rho": 5}),
    ),
    Mutation("H4", "absorption with tau = 0.8", "has cosine 0.707", penalties({**ABSORPTION, "tau": 0.8})),
    Mutation("H4", "rho = 1e6 for ratio lift", "selects none", penalties({**ABSORPTION, "ratio": "lift", "rho": 1e6})),
    Mutation(
        "H4",
        "rho = 1e-6, which every pair passes",
        "so its gate excludes few",
        penalties({**ABSORPTION, "ratio": "lift", "rho": 1e-6}),
    ),
    Mutation(
        "H5", "the diagonal is not excluded", "latent with itself", penalties({"name": "fault_self_pairs", "weight": 1})
    ),
    Mutation(
        "H5", "a rho that no pair reaches", "no pair of latents", penalties({**ABSORPTION, "ratio": "lift", "rho": 1e6})
    ),
    Mutation("H6", "1,000 tokens in batches of 2,048", "zero steps", changed(steps=None, tokens=1000, batch_size=2048)),
    Mutation("H6", "a stream that ends after 50 batches", "50 of 200 planned steps done", with_a_short_stream),
    Mutation(
        "H7",
        "a term that overflows at step 89",
        "not finite at step 90",
        penalties({"name": "fault_overflow", "weight": 1e-30}),
    ),
    Mutation(
        "H7",
        "lr = 1e38, found before the first step",
        "on random rows: not finite",
        changed(optimizer={"lr": 1e38, "clip": None, "warmup": 0}),
    ),
    Mutation("H8", "lr = 1e-12", "training moved W_enc by 0", changed(optimizer={"lr": 1e-12})),
    Mutation(
        "H9", "an L1 weight of 100", "below 1; lower the sparsity weight", changed(penalties=[{**L1, "weight": 100.0}])
    ),
    Mutation("H9", "no sparsity penalty", "above d_sae * 0.25", changed(penalties=[])),
    Mutation("H9", "an L1 weight of 20", "the explained variance is", changed(penalties=[{**L1, "weight": 20.0}])),
    Mutation("H9", "a run of 3 steps", "outside [0.85, 1.1]", changed(steps=3)),
    Mutation("H9", "L0 steered with almost no gain", "off its target of 8", changed(penalties=[STEERED])),
    Mutation(
        "H10",
        "labels that belong to other texts",
        "nor does one on the model's own activations: check labels",
        lambda world: probed(world.folder, shuffled=True),
    ),
    Mutation(
        "H10",
        "an L1 weight of 1,000, which kills the latents",
        "probes on the model's own activations do: the latents are dead",
        lambda world: probed(world.folder, l1=1000.0),
    ),
    Mutation(
        "H11", "a result of an earlier run in the same folder", "of an earlier run in this folder", with_a_stale_result
    ),
    Mutation(
        "H12",
        "a result measured at another hook",
        "hook blocks.9.hook_resid_post, not blocks.1.hook_resid_post",
        compared(edit=lambda result: result["saepipe"].update(hook="blocks.9.hook_resid_post")),
    ),
    Mutation("H13", "a run resumed by another commit", " then another", with_another_commit),
    Mutation("H13", "a plugin changed between two runs", "plugin_sources.mine", with_a_changed_plugin),
    Mutation(
        "H14",
        "a penalty that confuses d_in with d_sae",
        "fails with d_in 24, d_sae 40 and batch 17",
        penalties({"name": "fault_wrong_axis", "weight": 1}),
    ),
    Mutation("H14", "W_dec normalised along the wrong axis", "from unit norm along the channels", with_wrong_axis),
    Mutation("H15", "a count as a penalty", "has no gradient", penalties({"name": "fault_no_gradient", "weight": 1})),
    Mutation(
        "H16",
        "fewer held-out tokens for one run",
        "different held-out tokens",
        compared(edit=lambda result: result["saepipe"]["counts"].update(tokens=7)),
    ),
    Mutation(
        "H16",
        "a clean loss that differs by 1e-4",
        "different evaluation data: clean CE (nats) (ce_loss_without_sae), which does not depend on the SAE, is 3 for",
        evaluated(0.81, 0.82, 0.83, clean=3.0001),
    ),
    Mutation(
        "H16",
        "another version of the metric for one run",
        "core was measured differently for a/seed-0 and b/seed-0: metric_version",
        compared(edit=lambda result: result["saepipe"].update(metric_version=1)),
    ),
    Mutation(
        "H17",
        "a mean gain of 0.05 in explained variance, with seeds from -0.06 to 0.16",
        "which reaches the effect of interest (0.01), but its interval over 3 seeds is [",
        evaluated(0.85, 0.96, 0.74),
    ),
    Mutation("H17", "a gain of 0.05 with a single seed", "(0.01), but 1 seed is too few to rule out", evaluated(0.85)),
    Mutation(
        "H17",
        "the one bad seed of four has no value",
        "explained variance has a value for only 3 of 4 paired seeds",
        evaluated(0.85, 0.86, 0.84, None),
    ),
    Mutation(
        "H17",
        "a primary metric that no evaluation has",
        "no metric has a figure of that name; did you mean explained_variance?",
        evaluated(0.81, 0.82, 0.83, primary_metrics={"explaned_variance": 0.01}),
    ),
    Mutation("H18", "an L0 6 % above the baseline's", "L0; H18: L0 is 4.24 against 4", compared(a=4.0, b=4.24)),
    Mutation(
        "H19",
        "a schedule of 10,000 steps in a run of 200",
        "ends at step 10,000, but the run has 200 steps",
        changed(penalties=[{"name": "l1", "weight": {"start": 1.0, "end": 0.1, "steps": 10_000}}]),
    ),
    Mutation(
        "H21",
        "a penalty that raises an error in step 120",
        "fault_raises raised ValueError: no such pair at ",
        changed(penalties=[{"name": "fault_raises", "weight": 1}]),
    ),
    Mutation(
        "H22",
        "a gain of 0.1 that the variant's frozen decoder has too",
        "explained variance is better than the baseline's, but so is that of the control weight-2-frozen",
        with_a_control_as_good,
    ),
    Mutation(
        "H23",
        "two arms at a quarter of the L0 at which a sweep's decoder rows overlap least",
        "L0 is 4.1 and 4, off by a factor of more than 1.5 in all arms: sweep of l0-4 (4 variants)",
        with_arms_far_from_the_proxy,
    ),
)
