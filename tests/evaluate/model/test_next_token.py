"""Cross-entropy and divergence against PyTorch's own functions."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from saepipe.evaluate.model import next_token
from saepipe.evaluate.model.next_token import predict

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("chunk", [1, 100, 2**27])
def test_against_torch(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(next_token._CHUNK, "cpu", chunk)
    rng = torch.Generator().manual_seed(0)
    logits, clean = 3 * torch.randn(2, 3, 5, 11, generator=rng)
    ids = torch.randint(11, (3, 5), generator=rng)
    prediction = predict(logits, ids, clean)
    ce = cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    kl = kl_div(logits.log_softmax(-1), clean.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(prediction.ce[:, :-1], ce)
    torch.testing.assert_close(prediction.kl, kl)


def test_no_divergence_from_itself() -> None:
    logits = 30 * torch.randn(1, 4, 9, generator=torch.Generator().manual_seed(0))
    assert (predict(logits, torch.zeros(1, 4, dtype=torch.int64), logits).kl == 0).all()


def test_bfloat16_logits_are_compared_in_float32() -> None:
    """The reference takes log(softmax) in the model's dtype, where a small probability underflows to NaN."""
    logits = torch.tensor([[[0.0, 200.0, 100.0]] * 2], dtype=torch.bfloat16)
    prediction = predict(logits, torch.zeros(1, 2, dtype=torch.int64), -logits)
    assert prediction.ce[0, 0] == 200.0
    assert prediction.kl.isfinite().all()
