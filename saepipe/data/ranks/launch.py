"""The place of this process among those of a command, as torchrun says it in the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from saepipe.data.errors import ConfigError


@dataclass(frozen=True)
class Ranks:
    """This process among those of one command; a process that torchrun did not start is the only one."""

    rank: int = 0
    """of this process, from 0 to size - 1"""
    size: int = 1
    """number of processes"""
    local_rank: int = 0
    """of this process among those of its machine"""
    local_size: int = 1
    """number of processes on this machine"""
    life: int = 0
    """restarts that the agent of this machine has counted; those of other machines may count otherwise"""

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Reads what torchrun sets.

        Raises:
            ConfigError: if only a part is set, or a value is no whole number of its range.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        if "TORCHELASTIC_RUN_ID" not in environment:  # RANK and WORLD_SIZE are also set by others, for other processes
            return cls()
        try:
            values = [int(environment[name]) for name in (*names, "TORCHELASTIC_RESTART_COUNT")]
        except (KeyError, ValueError):
            read = ", ".join(f"{name}={environment.get(name)}" for name in names)
            raise ConfigError(f"torchrun's variables are incomplete: {read}", hint="start with torchrun") from None
        ranks = cls(*values)
        if not (0 <= ranks.rank < ranks.size and 0 <= ranks.local_rank < ranks.local_size <= ranks.size):
            raise ConfigError(f"torchrun's variables contradict each other: {ranks}", hint="start with torchrun")
        return ranks

    @property
    def is_first(self) -> bool:
        """True in the process that does what one does for all."""
        return self.rank == 0

    @property
    def is_first_here(self) -> bool:
        """True in the process that does what one does for all of its machine."""
        return self.local_rank == 0

    def owns(self, number: int) -> bool:
        """Returns whether this rank has the piece of work `number`; the pieces are dealt out in turn."""
        return number % self.size == self.rank
