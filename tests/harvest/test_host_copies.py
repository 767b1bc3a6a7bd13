"""Packed rows reach the host whole, from a CUDA device by a stream of their own."""

from __future__ import annotations

import pytest
import torch

from saepipe.data.batches.side_stream import SideStream
from saepipe.harvest.host_copies import PlainCopies, host_copies

pytestmark = pytest.mark.quick


def test_plain_copies_give_the_tensors_themselves() -> None:
    copies = host_copies(torch.device("cpu"))
    assert isinstance(copies, PlainCopies)
    x = torch.arange(6)
    assert copies.upload(x) is x
    assert copies.download({"x": x})()["x"] is x


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_copies_are_of_what_was_computed_before_them() -> None:
    """Memory that is freed and used again before a copy is made must not change it."""
    copies = host_copies(torch.device("cuda", torch.cuda.current_device()))
    assert isinstance(copies, SideStream)
    index, pending = copies.upload(torch.arange(2**20)), []
    for number in range(20):
        x = torch.randn(2**11, 2**11, device=copies.device)
        product = (x @ x).fill_(number)  # the copy must wait for both
        pending.append(copies.download({"product": product, "index": index + number}))
        del x, product
    for number, wait in enumerate(pending):
        tensors = wait()
        assert all(tensor.is_pinned() for tensor in tensors.values())
        assert (tensors["product"] == number).all()
        torch.testing.assert_close(tensors["index"], torch.arange(2**20) + number)
