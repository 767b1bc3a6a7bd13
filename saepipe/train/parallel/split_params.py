"""Which parameters are split over the ranks of a run, and the whole of what is split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from saepipe.train.parallel.axis import answered
from saepipe.train.parallel.mesh import Mesh
from saepipe.train.parallel.tile import Tile
from saepipe.train.sae.base import PER_CHANNEL, Params


def latent_dim(name: str, value: Tensor) -> int | None:
    """Returns the dimension of the latents in a parameter, or in a tensor of its shape; None if it has none."""
    if name in ("W_enc", "W_dec") and value.dim() == 2:
        return 1 if name == "W_enc" else 0
    return 0 if value.dim() == 1 and name not in PER_CHANNEL else None


def own_params(params: Params, mesh: Mesh) -> Params:
    """Returns the part of whole parameters that this rank holds."""
    return {name: own_part(name, value, mesh) for name, value in params.items()}


def own_part(name: str, whole: Tensor, mesh: Mesh) -> Tensor:
    """Returns the part of a parameter, or of a tensor of its shape, that this rank holds; a view."""
    dim = latent_dim(name, whole)
    if dim is None:
        return whole
    latents = mesh.latents.part(whole.shape[dim])
    return whole.narrow(dim, latents.start, len(latents))


class JoinedWeights(Mapping[str, Tensor]):
    """The weights of all latents, each gathered when it is first read, with the gradient of its own part."""

    def __init__(self, params: Params, tile: Tile) -> None:
        self._params, self._tile = params, tile
        self._joined: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._joined:
            part = self._params[name]
            dim = latent_dim(name, part)
            self._joined[name] = part if dim is None else self._tile.join_latents(part, dim)
        return self._joined[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._params)

    def __len__(self) -> int:
        return len(self._params)


def total_norm(gradients: Mapping[str, Tensor], mesh: Mesh) -> Tensor:
    """Returns the norm, (), of the whole gradient, from this rank's parts."""
    split = {name for name, gradient in gradients.items() if latent_dim(name, gradient) is not None}
    own, shared = (
        torch.nn.utils.get_total_norm([gradient for name, gradient in gradients.items() if (name in split) == of_part])
        for of_part in (True, False)
    )
    return (mesh.latents.summed(own.square()) + shared.square()).sqrt()


def collected(name: str, part: Tensor, mesh: Mesh, d_sae: int) -> Tensor:
    """Returns a whole parameter, or a tensor of its shape, in the first rank's memory; elsewhere the part as it is.

    Each rank of the first row sends its part, so that the first rank's device holds one part of another at a time.
    """
    dim, latents = latent_dim(name, part), mesh.latents
    if dim is None:
        return part.cpu()
    if not mesh.is_first:
        if mesh.tokens.rank == 0:
            with answered():
                dist.send(part.movedim(dim, 0).contiguous(), 0)
        return part
    parts = [part.movedim(dim, 0).cpu()]
    for rank, others in enumerate(latents.parts(d_sae)[1:], 1):
        arriving = part.new_empty(len(others), *parts[0].shape[1:])
        with answered():
            dist.recv(arriving, rank)
        parts.append(arriving.cpu())
    return torch.cat(parts).movedim(0, dim)
