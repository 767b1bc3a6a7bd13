"""What a training needs in memory, for the message when it cannot have it."""

from __future__ import annotations

from collections.abc import Sequence

from saepipe.data.errors import OutOfSpaceError
from saepipe.data.terminal.display import readable_bytes
from saepipe.train.step.state import Recipe

BYTES_PER_PARAMETER = 16
"""float32: the parameter, its gradient and Adam's two moments."""

BYTES_PER_ACTIVATION = 16
"""float32: pre-activations, activations and the gradient of each."""


def memory_needs(recipes: Sequence[Recipe]) -> tuple[int, int]:
    """Returns the bytes of runs that train together: of their parameters, and of the activations of a batch."""
    parameters = sum(BYTES_PER_PARAMETER * 2 * recipe.d_in * recipe.config.sae.d_sae for recipe in recipes)
    return parameters, max(
        BYTES_PER_ACTIVATION * recipe.config.batch_size * recipe.config.sae.d_sae for recipe in recipes
    )


def out_of_memory(recipes: Sequence[Recipe], error: BaseException) -> OutOfSpaceError:
    """Returns the error for runs that train together, with what they need and which batch size needs half of it."""
    parameters, batch = memory_needs(recipes)
    batch_size = recipes[0].config.batch_size
    reason = next(iter(str(error).splitlines()), "") or "nothing more could be allocated"
    runs = "1 run needs" if len(recipes) == 1 else f"{len(recipes)} runs need"
    return OutOfSpaceError(
        f"out of memory: {reason}\n  {runs} about {readable_bytes(parameters)} for their parameters "
        f"and Adam's moments, and about {readable_bytes(batch)} for the activations of a batch of {batch_size:,}",
        hint=f"batch_size: {max(1, batch_size // 2)} halves the activations; fewer variants in a call, or a smaller "
        "d_sae, need less for parameters",
    )
