"""Each parameter is split along its latents, and the parts are the whole."""

from __future__ import annotations

import pytest
import torch

from saepipe.data.config.component import import_members
from saepipe.data.ranks.launch import Ranks
from saepipe.train.parallel.axis import Axis
from saepipe.train.parallel.mesh import Mesh
from saepipe.train.parallel.split_params import latent_dim, own_params
from saepipe.train.sae.base import Architecture
from saepipe.train.sae.transcoder import transcoder_params

import_members(Architecture.package)


def mesh(rank: int, size: int) -> Mesh:
    return Mesh(Ranks(rank, size), Axis(rank, size), Axis(), Axis(rank, size), None, 1.0)


@pytest.mark.parametrize("name", ["relu", "jumprelu", "gated", "batch_topk"])
def test_the_parts_of_three_ranks_are_the_whole(name: str) -> None:
    sae = Architecture.parse({"name": name, "d_sae": 13, **({"k": 4} if name == "batch_topk" else {})})
    assert isinstance(sae, Architecture)
    rng = torch.Generator().manual_seed(0)
    params = transcoder_params(sae.init(13, 1.0, rng), 5, 1.0, rng, skip=True)  # d_out is d_sae, as the worst case
    parts = [own_params(params, mesh(rank, 3)) for rank in range(3)]
    for key, value in params.items():
        dim = latent_dim(key, value)
        expected_dim = {"W_enc": 1, "W_dec": 0, "b_enc": 0, "r_mag": 0, "b_mag": 0}.get(key)
        assert dim == (0 if key == "threshold" and name == "jumprelu" else expected_dim)
        if dim is None:
            assert all(torch.equal(part[key], value) for part in parts)
        else:
            assert torch.equal(torch.cat([part[key] for part in parts], dim), value)
            assert [part[key].shape[dim] for part in parts] == [4, 4, 5]
