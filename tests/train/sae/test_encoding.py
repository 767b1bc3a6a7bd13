"""The encoder of a sparse step: what it expects of a batch before it looks for entries."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from saepipe.train.sae import encoding
from saepipe.train.sae.base import Architecture, Params, product
from saepipe.train.sae.batch_topk import BatchTopK
from saepipe.train.sae.matryoshka_batch_topk import MatryoshkaBatchTopK
from saepipe.train.sae.screening import Screening

BATCH, D_IN, D_SAE, K = 1100, 24, 96, 6


def params_at(threshold: float) -> Params:
    generator = torch.Generator().manual_seed(0)
    W_dec = torch.nn.functional.normalize(torch.randn(D_SAE, D_IN, generator=generator), dim=1)
    biases = {"b_enc": torch.full((D_SAE,), -0.5), "b_dec": torch.zeros(D_IN)}
    return {"W_enc": W_dec.T.contiguous(), "W_dec": W_dec, **biases, "threshold": torch.tensor(threshold)}


@pytest.mark.parametrize("screening", ["never", "always"])
@pytest.mark.parametrize("factor", [0.5, 1.0, 1.5, 3.0, 100.0])
@pytest.mark.parametrize("architecture", [BatchTopK, MatryoshkaBatchTopK], ids=["batch_topk", "matryoshka"])
def test_a_batch_topk_finds_its_entries_far_below_the_running_threshold(
    architecture: type[Architecture], factor: float, screening: Screening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Early in a run thresholds fall faster than their running mean. No product of the whole batch is needed then."""
    sae = architecture.model_validate({"d_sae": D_SAE, "k": K})
    x = torch.randn(BATCH, D_IN, generator=torch.Generator().manual_seed(1))
    pre_acts = product(x, params_at(0.0)["W_enc"], params_at(0.0)["b_enc"])
    kept = pre_acts.flatten().topk(K * BATCH)

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the whole batch was encoded at once")

    monkeypatch.setattr(encoding, "_at_once", fail)
    params = params_at(factor * float(kept.values[-1]))
    entries = encoding.encode(sae, params, x, torch.float32, torch.tensor([], dtype=torch.int64), screening)
    assert torch.equal(entries.pattern.positions, kept.indices.sort().values)
    torch.testing.assert_close(entries.entry_pre_acts, pre_acts.flatten()[entries.pattern.positions])
