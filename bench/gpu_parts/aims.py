"""The aims, and their verdicts on the measured numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Parts = Mapping[str, Any]


@dataclass(frozen=True)
class Aim:
    """A number that should be at least (or, with `at_most`, at most) a limit."""

    name: str
    value: Callable[[Parts], float]
    limit: float
    at_most: bool = False

    def judge(self, parts: Parts) -> Judgement:
        wanted = f"{'<=' if self.at_most else '>='} {self.limit:g}"
        try:
            value = self.value(parts)
        except KeyError as error:
            return Judgement(self.name, None, wanted, "not measured", f"no figure {error}")
        met = value <= self.limit if self.at_most else value >= self.limit
        return Judgement(self.name, value, wanted, "met" if met else "missed")


@dataclass(frozen=True)
class Judgement:
    """An aim with its number; if there is no number, `why` names what is missing. The fields are keys of the result."""

    aim: str
    number: float | None
    wanted: str
    verdict: str
    why: str = ""

    def __str__(self) -> str:
        number = "-" if self.number is None else f"{self.number:.3g}"
        return f"{self.aim:78} {number:>8}   {self.wanted:>8}   {self.verdict}{self.why and ': ' + self.why}"


def harvest_ratio(context_size: int) -> Callable[[Parts], float]:
    return lambda parts: parts["harvest"][f"context {context_size}"]["ratio"]


def dense_share(parts: Parts) -> float:
    return parts["steps"]["relu 16384"]["contenders"]["dense"]["share_of_matmul"]


def sparse_speed(parts: Parts) -> float:
    contenders = parts["steps"]["topk 65536"]["contenders"]
    return contenders["plain, compiled"]["ms"] / contenders["sparse"]["ms"]


def graphed_speed(parts: Parts) -> float:
    contenders = parts["steps"]["relu 2304"]["contenders"]
    return contenders["dense"]["ms"] / contenders["dense, graphed"]["ms"]


def screened_speed(parts: Parts) -> float:
    ms = parts["screen"]["topk 65536"]["ms"]
    return ms["unscreened"] / ms["screened"]


AIMS = (
    Aim("harvest with writing, over the forward pass alone, context 128", harvest_ratio(128), 0.85),
    Aim("harvest with writing, over the forward pass alone, context 1024", harvest_ratio(1024), 0.85),
    Aim("dense ReLU at d_sae 16,384 in bfloat16, share of the matmul measured beside it", dense_share, 0.6),
    Aim("sparse TopK k = 64 at d_sae 65,536, times dense compiled PyTorch", sparse_speed, 3.0),
    Aim("sparse TopK at d_sae 65,536 in float32, screened, times unscreened", screened_speed, 2.0),
    Aim("dense ReLU at d_sae 2,304 as one CUDA graph, times its launches one by one", graphed_speed, 1.5),
    Aim("ten runs of the reference experiment, seconds", lambda run: run["reference"]["seconds"], 60.0, at_most=True),
)


def judge(parts: Parts) -> list[Judgement]:
    return [aim.judge(parts) for aim in AIMS]
