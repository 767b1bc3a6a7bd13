from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from saepipe.data.errors import OutOfSpaceError, is_out_of_memory
from saepipe.train.config import TrainConfig
from saepipe.train.run import train

CPU = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"


@pytest.mark.parametrize("error", [RuntimeError(CPU), MemoryError(), RuntimeError("can't start new thread")])
def test_a_training_says_what_it_needs_and_what_needs_less(
    config: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def step(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("saepipe.train.stacked.teams.train_step", step)
    with pytest.raises(
        OutOfSpaceError, match=r"(?s)out of memory: .*2 runs need about 61.4 kB .* batch of 17"
    ) as raised:
        train(config(variants=[{"name": "a"}, {"name": "b", "penalties.0.weight": 2.0}]), tmp_path)
    assert str(raised.value.hint).startswith("batch_size: 8 halves")
    assert raised.value.exit_code == 5


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("size mismatch"))
    assert not is_out_of_memory(ImportError("no module named x"))
    assert is_out_of_memory(OSError(12, "Cannot allocate memory"))
