"""Hedging of the SAE that another one was widened from: how far its latents moved towards the added ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch.nn.functional import normalize

from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.stats.hedging_degree import hedging_degree
from saepipe.evaluate.stats.intervals import Estimate
from saepipe.train.config_sections import InitConfig
from saepipe.train.rundir.starting_sae import saved_start


@dataclass(frozen=True)
class Widening:
    """What became of an SAE that got further latents and was trained on."""

    latents_before: int
    latents_added: int
    hedging_degree: float | Estimate

    @property
    def figures(self) -> Mapping[str, float | Estimate]:
        return {"hedging_degree": self.hedging_degree}

    @property
    def sizes(self) -> Mapping[str, int]:
        return {"latents_before": self.latents_before, "latents_added": self.latents_added}


def widening(subject: Subject) -> Widening | None:
    """Returns the widening with which a run's training began; None if it began otherwise.

    Raises:
        CorruptDataError: if the SAE in `init.from` is no longer there.
    """
    plain = subject.run.plain.get("init")
    init = InitConfig.parse(plain) if isinstance(plain, Mapping) else InitConfig()
    if init.source is None:
        return None
    before, after = saved_start(init)[1]["W_dec"], subject.sae.W_dec.detach().float().cpu()
    num_added, d_out = len(after) - len(before), after.shape[1]
    if num_added == 0:
        return None
    if num_added >= d_out:
        reason = f"{num_added} latents were added in {d_out} dimensions, so all movement is towards them: add fewer"
        return Widening(len(before), num_added, Estimate(None, reason=reason))
    degree = hedging_degree(normalize(before.float(), dim=1), normalize(after, dim=1))
    return Widening(len(before), num_added, degree)
