"""Price of a rank's time, from which a dry run computes what a command would cost."""

from __future__ import annotations

from pydantic import Field

from saepipe.data.config.base import Config


class Rate(Config):
    """Price of one rank, on one device, for an hour."""

    per_rank_hour: float = Field(gt=0)
    currency: str = Field("USD", min_length=1, max_length=8)

    def price(self, rank_hours: float) -> str:
        """Formats a price: `12.50 USD`."""
        return f"{rank_hours * self.per_rank_hour:,.2f} {self.currency}"
