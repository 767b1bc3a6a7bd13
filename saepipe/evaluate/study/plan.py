"""Plan of a study: its runs, what they cost, and the effects that it can see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from saepipe.data.batches.rank_memory import RankMemory
from saepipe.data.folders.artifact import is_committed
from saepipe.data.remote.places import folder_of, refresh
from saepipe.data.terminal.display import readable_bytes, readable_time
from saepipe.evaluate.results.figures import catalogue
from saepipe.evaluate.study.arm_configs import arms_of, train_config
from saepipe.evaluate.study.config import StudyConfig
from saepipe.evaluate.study.power import Power
from saepipe.evaluate.study.record import Record
from saepipe.evaluate.study.train_arms import Study
from saepipe.harvest.plan import plan as plan_harvest
from saepipe.train.dry_run import dry_run as dry_run_of


@dataclass(frozen=True)
class StudyPlan:
    """What a study will do, and what it costs."""

    question: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    l0: tuple[float, ...]
    finished: int
    """runs that are there"""
    harvest_seconds: float
    train_seconds: float | None
    """of all runs, trained once; None if the cache is not there yet, on which steps are tried"""
    device: str | None
    disk_bytes: int | None
    """of the cache to make, or of the SAEs, whichever is known"""
    memory: RankMemory | None
    """of the training, or of the harvest that comes before it"""
    powers: tuple[Power, ...]

    @property
    def num_runs(self) -> int:
        return len(self.arms) * len(self.seeds)

    def to_dict(self) -> dict[str, Any]:
        own = {key: value for key, value in vars(self).items() if key not in ("powers", "memory")}
        own["memory"] = asdict(self.memory) if self.memory else None
        return {**own, "num_runs": self.num_runs, "powers": [vars(power) | _seen(power) for power in self.powers]}

    def page(self) -> dict[str, str]:
        """Returns a sentence for each part of the plan."""
        return dict(self._sentences())

    def _sentences(self) -> Iterator[tuple[str, str]]:
        yield "question", self.question
        yield "arms", ", ".join(self.arms)
        at = f" at L0 {', '.join(f'{l0:g}' for l0 in self.l0)}" if self.l0 else ", each at the L0 that it comes to"
        done = f" ({self.finished} finished)" if self.finished else ""
        yield "runs", f"{self.num_runs}, of {len(self.seeds)} seeds{at}{done}"
        if self.train_seconds is None:
            yield "time", f"{readable_time(self.harvest_seconds)} for the cache; runs are timed once it is there"
        else:
            again = "; an arm that misses its L0 is trained twice" if self.l0 else ""
            yield "time", f"{readable_time(self.train_seconds)} of training on {self.device}{again}"
        if self.disk_bytes is not None:
            of = "the cache" if self.train_seconds is None else "SAEs"
            yield "disk", f"{readable_bytes(self.disk_bytes)} of {of}"
        if self.memory is not None:
            yield "memory", f"{self.memory.sentence()} for the {'cache' if self.train_seconds is None else 'training'}"
        if not self.powers:
            yield "power", "unknown yet: a pilot of two seeds measures it before the other runs"
        yield from ((power.label, power.sentence) for power in self.powers)


def _seen(power: Power) -> dict[str, Any]:
    return {"detectable": power.detectable, "seeds_needed": power.seeds_needed}


def plan_study(config: StudyConfig, out: Path) -> StudyPlan:
    """Plans a study at `out`; trains nothing, and writes nothing.

    Raises:
        ConfigError: if an arm is wrong, or the cache cannot be made.
    """
    refresh(out := folder_of(out))
    arms = tuple(arms_of(config))
    study, record = Study(config, arms, out), Record.read(out)
    harvested, seconds, train_seconds, device, num_bytes = is_committed(study.cache), 0.0, None, None, None
    memory: RankMemory | None = None
    if harvested:
        costs = dry_run_of(train_config(config, arms, config.all_seeds, study.trained_to(record), study.cache))
        train_seconds, device = costs.seconds, costs.device
        num_bytes, memory = sum(cost.sae_bytes for cost in costs.runs), costs.memory
    elif config.harvest is not None:
        made = plan_harvest(config.harvest, study.cache)
        seconds, num_bytes, memory = made.seconds, made.compressed_bytes, made.memory
    return StudyPlan(
        question=config.question,
        arms=tuple(arm.label for arm in arms),
        seeds=config.all_seeds,
        l0=config.l0s,
        finished=sum(map(is_committed, study.runs(arms, config.all_seeds))),
        harvest_seconds=seconds,
        train_seconds=train_seconds,
        device=device,
        disk_bytes=num_bytes,
        memory=memory,
        powers=tuple(known_powers(config, record)),
    )


def known_powers(config: StudyConfig, record: Record) -> list[Power]:
    """Returns what the planned seeds can see of each primary metric whose spread was given or measured."""
    shown, effects = catalogue(), record.primary_metrics or config.primary_metrics
    measured = {key: (spread, record.spread_degrees) for key, spread in (record.spreads or {}).items()}
    spreads = measured | {key: (spread, None) for key, spread in config.spreads.items()}
    return [
        Power(
            key=key,
            label=shown[key].label if key in shown else key,
            effect=effect,
            spread=spreads[key][0],
            num_seeds=len(config.all_seeds),
            num_tests=len(effects),
            degrees=spreads[key][1],
        )
        for key, effect in effects.items()
        if key in spreads
    ]
