"""SynthSAEBench's metrics of an SAE (arXiv 2602.14687; SAELens' `eval_sae_on_synthetic_data`), summed batch by batch.

The feature of a latent is the one whose direction has the largest |cosine| with the latent's decoder row. The latent is
a classifier of the tokens on which that feature is on; precision, recall, F1 and accuracy are means over all latents,
in which a latent that is never active, or whose feature is never on, counts as 0.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from saepipe.data.synthetic import CopulaTokens
from saepipe.evaluate.validate.truth_metrics import recovery
from saepipe.train.sae.base import is_active

CHUNK = 1024
"""Latents whose cosines with all features are computed at a time."""

MIN_LENGTH = 1e-6


@dataclass(frozen=True)
class SynthBenchMetrics:
    """One SAE on many tokens."""

    f1: float
    precision: float
    recall: float
    accuracy: float
    mcc: float  # mean |cosine| of latents and features, paired by the best assignment
    uniqueness: float  # distinct features among the latents' features, over the number of latents
    explained_variance: float  # 1 - E|x - x_hat|^2 / E|x - E x|^2
    shrinkage: float  # mean of |x_hat| / |x| over tokens with |x| > 1e-6
    l0: float  # active latents per token
    true_l0: float  # features that are on per token
    dead: int  # latents that are never active

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


class SynthBenchSums:
    """Running sums of one SAE's metrics."""

    def __init__(self, W_dec: Tensor, directions: Tensor) -> None:
        """Takes decoder rows (d_sae, d_in) and the features' directions (num_features, d_in), of any length."""
        self._W_dec, self._directions = W_dec, directions
        self.features = nearest_features(W_dec, directions)  # (d_sae,) of the latents
        zeros = torch.zeros(len(W_dec), dtype=torch.float64, device=W_dec.device)
        self._active, self._on, self._both = zeros, zeros.clone(), zeros.clone()  # tokens, by latent
        self._sum_x = torch.zeros(W_dec.shape[1], dtype=torch.float64, device=W_dec.device)
        self._squared = self._error = self._ratio = self._num_long = torch.zeros(
            (), dtype=torch.float64, device=W_dec.device
        )
        self._num_tokens = self._num_on = 0

    def add(self, tokens: CopulaTokens, acts: Tensor, x_hat: Tensor) -> None:
        """Adds a batch: acts (num_tokens, d_sae) and x_hat (num_tokens, d_in), in the units of `tokens.x`."""
        active = is_active(acts)
        on = tokens.on_mask(len(self._directions))[:, self.features]
        self._active = self._active + active.sum(0)
        self._on = self._on + on.sum(0)
        self._both = self._both + (active & on).sum(0)
        x = tokens.x.double()
        self._sum_x = self._sum_x + x.sum(0)
        self._squared = self._squared + x.square().sum()
        self._error = self._error + (x - x_hat).square().sum()
        length = x.norm(dim=1)
        self._ratio = self._ratio + (x_hat.double().norm(dim=1) / length)[length > MIN_LENGTH].sum()
        self._num_long = self._num_long + (length > MIN_LENGTH).sum()
        self._num_tokens += len(x)
        self._num_on += len(tokens.on.token)

    def metrics(self) -> SynthBenchMetrics:
        """Returns the metrics over all tokens added; MCC takes a minute at 4,096 latents and 16,384 features."""
        num, active, on, both = self._num_tokens, self._active, self._on, self._both
        variance = self._squared / num - (self._sum_x / num).square().sum()
        return SynthBenchMetrics(
            f1=_mean(2 * both / (active + on)),
            precision=_mean(both / active),
            recall=_mean(both / on),
            accuracy=_mean((num - active - on + 2 * both) / num),
            mcc=recovery(self._W_dec, self._directions),
            uniqueness=len(torch.unique(self.features)) / len(self.features),
            explained_variance=float(1 - self._error / num / variance),
            shrinkage=float(self._ratio / self._num_long),
            l0=float(active.sum() / num),
            true_l0=self._num_on / num,
            dead=int((active == 0).sum()),
        )


def nearest_features(W_dec: Tensor, directions: Tensor) -> Tensor:
    """Returns the feature with the largest |cosine| with each row, (d_sae,) int64."""
    unit = normalize(directions, dim=1)
    return torch.cat([(normalize(rows, dim=1) @ unit.T).abs().argmax(1) for rows in torch.split(W_dec, CHUNK)])


def _mean(ratios: Tensor) -> float:
    """Returns the mean over latents, of which those with nothing to divide by count as 0."""
    return float(ratios.nan_to_num(0.0).mean())
