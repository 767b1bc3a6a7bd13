"""What a training needs in memory, for the message when it cannot have it."""

from __future__ import annotations

from collections.abc import Sequence

from saepipe.data.errors import OutOfSpaceError
from saepipe.train.step.state import Recipe

BYTES_PER_PARAMETER = 16
"""float32: the parameter, its gradient and Adam's two moments."""

BYTES_PER_ACTIVATION = 16
"""float32: pre-activations, activations and the gradient of each."""


def out_of_memory(recipes: Sequence[Recipe], error: BaseException) -> OutOfSpaceError:
    """Returns the error for runs that train together, with what they need and which batch size needs half of it."""
    parameters = sum(BYTES_PER_PARAMETER * 2 * recipe.d_in * recipe.config.sae.d_sae for recipe in recipes)
    batch_size = recipes[0].config.batch_size
    batch = max(BYTES_PER_ACTIVATION * batch_size * recipe.config.sae.d_sae for recipe in recipes)
    reason = next(iter(str(error).splitlines()), "") or "nothing more could be allocated"
    runs = "1 run needs" if len(recipes) == 1 else f"{len(recipes)} runs need"
    return OutOfSpaceError(
        f"out of memory: {reason}\n  {runs} about {_size(parameters)} for their parameters and "
        f"Adam's moments, and about {_size(batch)} for the activations of a batch of {batch_size:,}",
        hint=f"batch_size: {max(1, batch_size // 2)} halves the activations; fewer variants in a call, or a smaller "
        "d_sae, need less for parameters",
    )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.3g} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.3g} MB"
