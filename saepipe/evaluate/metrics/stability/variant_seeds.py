"""Seeds of one variant: their dictionaries, matched pair by pair, and matched again where they agree by chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from saepipe.evaluate.metrics.stability.agreement import agreements
from saepipe.evaluate.metrics.stability.chance_dictionaries import Chance, Flipped, Random
from saepipe.evaluate.metrics.stability.dictionary import Dictionary
from saepipe.evaluate.metrics.stability.heldout_text import HeldoutText
from saepipe.evaluate.metrics.stability.measurement import SeedResult
from saepipe.evaluate.metrics.stability.seed_figures import SeedFigures, Values, figures, mean_values
from saepipe.evaluate.sae.subject import Subject
from saepipe.train.seeds import generator


class Draw(NamedTuple):
    """Figures of each seed by chance, in one draw."""

    random: list[Values]
    flipped: list[Values]


@dataclass(frozen=True)
class VariantSeeds:
    """At least two seeds of one variant, in the order of the seeds."""

    seeds: Sequence[Subject]
    own: Sequence[Dictionary]
    text: HeldoutText
    max_assigned: int

    @classmethod
    def of(cls, seeds: Sequence[Subject], text: HeldoutText, max_assigned: int) -> Self:
        """Encodes the text by all seeds, in one pass."""
        acts = text.encode([seed.encode_finite for seed in seeds], f"SAEs: {len(seeds)}")
        own = [Dictionary.of(seed.sae, of_seed) for seed, of_seed in zip(seeds, acts, strict=True)]
        return cls(seeds, own, text, max_assigned)

    def results(self, num_draws: int) -> list[SeedResult]:
        """Returns one result per seed; no dictionary may be empty."""
        draws = [self._by_chance(draw) for draw in range(num_draws)]
        found = agreements(self.own, self.own, self.max_assigned)
        return [
            SeedResult(
                subject=seed,
                dictionary=self.own[number],
                agreements=agreed,
                figures=SeedFigures(
                    own=figures(agreed, self.own[number].density),
                    random=mean_values([draw.random[number] for draw in draws]),
                    flipped=mean_values([draw.flipped[number] for draw in draws]),
                ),
            )
            for number, (seed, agreed) in enumerate(zip(self.seeds, found, strict=True))
        ]

    def _by_chance(self, draw: int) -> Draw:
        """Draws a dictionary of either kind for each seed. Of a pair, the later one is flipped, so the first never."""
        axes = self.text.axes
        rngs = [generator(seed.run.seed, "stability", draw) for seed in self.seeds]
        random = [Random.draw(own, axes, rng) for own, rng in zip(self.own, rngs, strict=True)]
        later = zip(self.seeds[1:], self.own[1:], rngs[1:], strict=True)
        flipped = [Flipped.draw(seed, own, axes, rng) for seed, own, rng in later]
        chance: list[Chance] = [*random, *flipped]
        acts = self.text.encode([each.encode for each in chance], f"chance, draw {draw + 1}")
        drawn = [each.dictionary(of_all) for each, of_all in zip(chance, acts, strict=True)]
        at_random, behind = drawn[: len(random)], drawn[len(random) :]
        return Draw(self._figures(at_random, at_random), self._figures(self.own, [self.own[0], *behind]))

    def _figures(self, first: Sequence[Dictionary], second: Sequence[Dictionary]) -> list[Values]:
        agreed = agreements(first, second, self.max_assigned)
        return [figures(each, own.density) for each, own in zip(agreed, first, strict=True)]
