"""Names of several hooks as one: what a crosscoder reads."""

from __future__ import annotations

from collections.abc import Sequence

JOINT = " + "
"""Between the hooks in the name of what a crosscoder reads."""


def joint_name(hooks: Sequence[str]) -> str:
    """Returns the hooks as one name; a single hook as it is."""
    return JOINT.join(hooks)


def hooks_of(name: str) -> list[str]:
    """Returns the hooks in a name: several if it is that of a crosscoder."""
    return name.split(JOINT)
