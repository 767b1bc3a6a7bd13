"""Passes run beside what is done with their rows, two at once on a CPU, and give the rows and errors of single ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from threading import Barrier, Event
from typing import Any

import numpy as np
import pytest
import torch

from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.harvest.decoder_layers import decoder_layers
from saepipe.harvest.hook_point import HookPoint
from saepipe.harvest.model import LanguageModel, load_model
from saepipe.harvest.model_config import ModelConfig
from saepipe.harvest.pass_workers import PassWorkers
from saepipe.harvest.row_source import RowSource
from saepipe.harvest.rows import WindowBatch

pytestmark = pytest.mark.quick

HOOKS = [HookPoint.parse("blocks.0.hook_resid_post"), HookPoint.parse("blocks.1.hook_resid_post")]
SECONDS = 60
"""Long enough for what must happen; a test fails after it instead of waiting for ever."""


@pytest.fixture
def lm() -> LanguageModel:
    return load_model(ModelConfig(dtype="float32", device="cpu"))


@pytest.fixture
def source(lm: LanguageModel) -> Iterator[RowSource]:
    with closing(RowSource(lm, HOOKS, {})) as source:
        yield source


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def batch(number: int) -> WindowBatch:
    ids = np.random.default_rng(number).integers(10, 4000, (4, 16)).astype(np.int32)
    return WindowBatch(4 * number, ids, np.full_like(ids, number))


def test_a_pass_runs_while_the_last_rows_are_not_looked_at(lm: LanguageModel, source: RowSource) -> None:
    """Also on one thread: what is done with rows must not hold up the next pass."""
    ended = [Event(), Event()]

    def note(_: Any, __: Any, output: torch.Tensor) -> None:
        next(event for event in ended if not event.is_set()).set()

    decoder_layers(lm.model)[0].register_forward_hook(note)
    with closing(PassWorkers(source)) as passes:
        assert passes.in_flight == 2
        first, second = (passes.start(batch(number), "train") for number in range(2))
        assert ended[1].wait(SECONDS)
        assert len(first.wait()) == first.most == 64
        assert len(second.wait()) == 64


def test_two_passes_run_at_once_and_see_only_their_own_activations(
    lm: LanguageModel, source: RowSource, two_threads: None
) -> None:
    alone = [source.train(batch(number)) for number in range(4)]
    both, threads = Barrier(2), set[int]()

    def meet(*_: Any) -> None:
        threads.add(torch.get_num_threads())
        both.wait(SECONDS)

    decoder_layers(lm.model)[0].register_forward_hook(meet)
    with closing(PassWorkers(source)) as passes:
        assert passes.in_flight == 3
        pending = [passes.start(batch(number), "train") for number in range(4)]
        for rows, expected in zip([each.wait() for each in pending], alone, strict=True):
            assert list(rows.arrays) == list(expected.arrays)
            for name, values in expected.arrays.items():
                np.testing.assert_array_equal(rows.arrays[name], values)
    assert threads == {1}
    assert torch.get_num_threads() == 2


def test_errors_are_raised_in_the_order_of_the_batches(lm: LanguageModel, source: RowSource) -> None:
    """The second batch fails first, since its ids are looked at before the model runs."""

    def spoil(_: Any, __: Any, output: torch.Tensor) -> None:
        output[2, 5, 3] = torch.nan

    decoder_layers(lm.model)[0].register_forward_hook(spoil)
    wrong = batch(1)
    wrong.ids[1, 6] = -1
    with closing(PassWorkers(source)) as passes:
        first, second = passes.start(batch(0), "train"), passes.start(wrong, "train")
        with pytest.raises(CorruptDataError, match=r"NaN or Inf at blocks\.0.*: document 0, context 2, position 5"):
            first.wait()
        with pytest.raises(ConfigError, match="document 1 has token id -1"):
            second.wait()


def test_threads_are_given_back_after_an_interrupt(source: RowSource, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    passes = PassWorkers(source)
    passes.close()

    def interrupted() -> None:
        raise KeyboardInterrupt

    torch.set_num_threads(1)
    monkeypatch.setattr(passes._workers, "close", interrupted)
    with pytest.raises(KeyboardInterrupt):
        passes.close()
    assert torch.get_num_threads() == before
