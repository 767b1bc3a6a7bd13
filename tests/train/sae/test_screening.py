"""The rule by which the encoder's products are screened."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from saepipe.train.sae import screening as screening_module
from saepipe.train.sae.screening import multiplies_bfloat16_fast, screens

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("screening", "dtype", "fast", "expected"),
    [
        ("auto", torch.float32, True, True),
        ("auto", torch.float32, False, False),
        ("auto", torch.bfloat16, True, False),
        ("always", torch.float32, False, True),
        ("always", torch.float64, True, False),
        ("never", torch.float32, True, False),
    ],
)
def test_the_rule_on_a_cpu(
    screening: Any, dtype: torch.dtype, fast: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screening_module, "multiplies_bfloat16_fast", lambda: fast)
    assert screens(screening, torch.device("cpu"), dtype) is expected
    assert screens(screening, torch.device("meta"), dtype) is False


@pytest.mark.parametrize(
    ("screening", "dtype", "capability", "expected"),
    [
        ("always", torch.float32, (9, 0), True),
        ("always", torch.float32, (8, 0), True),
        ("always", torch.float32, (7, 5), False),
        ("always", torch.bfloat16, (9, 0), False),
        ("auto", torch.float32, (9, 0), False),
        ("never", torch.float32, (9, 0), False),
    ],
)
def test_the_rule_on_cuda(
    screening: Any,
    dtype: torch.dtype,
    capability: tuple[int, int],
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert screens(screening, torch.device("cuda"), dtype) is expected


def test_the_processor_is_asked() -> None:
    capabilities = torch.cpu.get_capabilities()
    assert multiplies_bfloat16_fast() == bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
