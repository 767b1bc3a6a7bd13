"""Rows that cannot be stored, and ids that the model lacks, are refused; a batch that is too large is run in parts."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch

from helpers.memory_limit import address_space
from saepipe.data.cache.hook_writer import HookWriter
from saepipe.data.cache.layout import Layout
from saepipe.data.errors import ConfigError, CorruptDataError, OutOfSpaceError
from saepipe.harvest.decoder_layers import decoder_layers
from saepipe.harvest.hook_point import HookPoint
from saepipe.harvest.model import LanguageModel, load_model
from saepipe.harvest.model_config import ModelConfig
from saepipe.harvest.row_source import RowSource
from saepipe.harvest.rows import WindowBatch

pytestmark = pytest.mark.quick

HOOK = "blocks.1.hook_resid_post"
LARGEST = torch.finfo(torch.float32).max


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return load_model(ModelConfig(dtype="float32", device="cpu"))


@pytest.fixture
def layer(lm: LanguageModel) -> Iterator[torch.nn.Module]:
    """The layer below the hook; what a test hooks into it is removed afterwards."""
    layer = decoder_layers(lm.model)[1]
    yield layer
    layer._forward_hooks.clear()


def batch(num_windows: int = 4) -> WindowBatch:
    ids = np.random.default_rng(0).integers(10, 4000, (num_windows, 8)).astype(np.int32)
    return WindowBatch(0, ids, np.full_like(ids, 7))


def rows(lm: LanguageModel, **options: Any) -> RowSource:
    return RowSource(lm, [HookPoint.parse(HOOK)], {}, **options)


@pytest.mark.parametrize("value", [LARGEST, -LARGEST, 3.4e38, 2e19])
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_a_value_that_is_infinite_once_stored_is_refused(
    lm: LanguageModel, layer: torch.nn.Module, value: float, split: str
) -> None:
    """The model's value is finite in float32; as bfloat16, or squared for the norm, it is not."""

    def enlarge(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        output[2, 5, 3] = value
        return output

    layer.register_forward_hook(enlarge)
    with pytest.raises(CorruptDataError, match=rf"values up to .* at {HOOK}: document 7, context 2, position 5; as bf"):
        getattr(rows(lm), split)(batch())


def test_moments_that_overflow_are_refused(tmp_path: Any) -> None:
    layout = Layout({HOOK: 4}, 8, 16, 16, "lossless")
    x = torch.full((16, 4), 1.0)
    x[::2, 2], x[1::2, 2] = 1.8e19, -1.8e19
    x[0, 2] *= 3
    stored = x.bfloat16().view(torch.int16).numpy().view(np.uint16)
    with pytest.raises(CorruptDataError, match="channel 2 at .* has values up to .* whose variance overflows"):
        list(HookWriter(tmp_path, layout, HOOK).shard(0, stored))


@pytest.mark.parametrize("token", [4096, 2**31 - 1, -1, -100])
def test_an_id_that_the_model_lacks_is_refused(lm: LanguageModel, token: int) -> None:
    windows = batch()
    windows.ids[1, 6] = token
    with pytest.raises(ConfigError, match=f"document 7 has token id {token}, but the model knows only 0 to 4095"):
        rows(lm).train(windows)


def allocate_for(layer: torch.nn.Module, most: int) -> list[int]:
    """Makes the layer ask torch for a pebibyte if it gets more than `most` windows; returns the sizes that it got."""
    sizes: list[int] = []

    def ask(_: Any, __: Any, output: torch.Tensor) -> None:
        sizes.append(len(output))
        if len(output) > most:
            torch.empty(2**50, dtype=torch.uint8)

    layer.register_forward_hook(ask)
    return sizes


def test_not_even_one_context_may_fit(lm: LanguageModel, layer: torch.nn.Module) -> None:
    allocate_for(layer, 0)
    with pytest.raises(OutOfSpaceError, match="not even one context fits") as raised:
        rows(lm).train(batch(8))
    assert raised.value.exit_code == 5


def test_a_batch_is_halved_until_it_fits_and_that_is_remembered_and_said(
    lm: LanguageModel, layer: torch.nn.Module
) -> None:
    whole = rows(lm).train(batch(8))
    sizes, messages = allocate_for(layer, 3), list[str]()
    source = rows(lm, say=messages.append)
    split = source.train(batch(8))
    assert messages == [
        "8 contexts do not fit in memory: batches are run 4 contexts at a time",
        "4 contexts do not fit in memory: batches are run 2 contexts at a time",
    ]
    for name, values in whole.arrays.items():
        np.testing.assert_allclose(split.arrays[name].astype(float), values.astype(float), rtol=0.02)
    sizes.clear()
    source.train(batch(8))
    assert sizes == [2, 2, 2, 2]


def test_memory_that_the_system_refuses_halves_a_batch(lm: LanguageModel) -> None:
    """At a limit such as `ulimit -v`: the scores of 32 contexts take 128 MiB, and as much in the softmax."""
    ids, messages = np.random.default_rng(0).integers(10, 4000, (32, 512)).astype(np.int32), list[str]()
    windows = WindowBatch(0, ids, np.zeros_like(ids))
    source = rows(lm, say=messages.append)
    with address_space(200 * 2**20):
        split = source.train(windows)
    assert messages[0] == "32 contexts do not fit in memory: batches are run 16 contexts at a time"
    assert source.batches.at_once is not None
    *_, last = windows.parts(source.batches.at_once)
    alone = rows(lm).train(last)
    assert len(split) == windows.ids.size
    for name, values in alone.arrays.items():
        np.testing.assert_array_equal(split.arrays[name][-len(alone) :], values)


def test_threads_that_fail_at_once_halve_once(lm: LanguageModel, layer: torch.nn.Module) -> None:
    sizes, messages, both = allocate_for(layer, 4), list[str](), Barrier(2)

    def meet(_: Any, __: Any, output: torch.Tensor) -> None:
        if len(output) > 4:
            both.wait(60)

    layer.register_forward_hook(meet, prepend=True)
    source = rows(lm, say=messages.append)
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(source.train, [batch(8), batch(8)])
    assert messages == ["8 contexts do not fit in memory: batches are run 4 contexts at a time"]
    assert sorted(sizes) == [4, 4, 4, 4, 8, 8]
    assert len(first) == len(second) == 64


def test_other_errors_of_the_model_pass(lm: LanguageModel, layer: torch.nn.Module) -> None:
    layer.register_forward_hook(lambda *_: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        rows(lm).train(batch())
