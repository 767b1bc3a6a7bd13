"""Metrics of an SAE against known features: recovery, detection, absorption, leaks, splitting, hedging.

A family is a parent p and its children c, with directions U (rows). The dual of a member is the row e of
(U U^T)^-1 U, so that e_p . u_p = 1 and e_p . u_c = 0: a child's latent with direction u_c has no component along e_p,
however much u_c overlaps u_p. The latent of a feature is the one that detects it best (largest F1 on held-out
tokens). On a token t on which p is active with magnitude m,

    main_t   = acts_t,i (d_i . e_p)                               the part of p carried by its own latent i
    others_t = sum_(j != i) acts_t,j (d_j . e_p) - outside_t      the part carried by all other latents
    outside_t = sum over features k outside the family of m_k (u_k . e_p): component along e_p that is not due to p

so a dictionary of the true directions with the true magnitudes has main_t = m and others_t = 0 exactly. A parent
that is split over several latents also looks absorbed wherever its main latent is silent: see `splitting`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import normalize

from saepipe.data.synthetic import Tokens, Truth
from saepipe.train.sae.base import is_active

CARRIED = 0.4
"""Share of a parent's magnitude above which other latents count as carrying it."""
HALF = 0.5
SPLIT_COSINE = 0.6
SPLIT_RATE = 0.05


@dataclass(frozen=True)
class TruthMetrics:
    """One SAE on held-out tokens. Absorption is over tokens on which a parent and one of its children are active."""

    l0: float  # active latents per token
    fvu: float  # sum |x - x_hat|^2 / sum |x - mean|^2
    mcc: float  # mean |cosine| of features and latents, paired by the best assignment
    f1: float  # F1 of each feature's latent, mean over features
    f1_parents: float
    absorbed: float  # share of tokens: the parent's latent is silent while others carry > 0.4 of the magnitude
    absorbed_half: float  # share of tokens: the parent's latent carries less than half while others carry > 0.4
    absorbed_fraction: float  # mean over tokens of others / max(main + others, m), each at least 0
    leak: float  # mean over children of d . e_p of the child's latent, at least 0
    splitting: float  # latents per parent, none a child's, with cosine > 0.6 to it and active on > 5 % of its tokens
    hedging: float  # mean over children of d . e_c of the parent's latent, at least 0
    dead: float  # share of latents that are never active
    max_cosine: float  # mean over latents that are not dead of the largest cosine with another such latent

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class _Families:
    """All pairs of a parent and a child, with the duals of both in their family."""

    parents: Tensor  # (num_parents,)
    duals: Tensor  # (num_parents, d_in)
    pair_parent: Tensor  # (num_pairs,) row of `parents`
    child: Tensor  # (num_pairs,)
    child_duals: Tensor  # (num_pairs, d_in)


def measure(truth: Truth, tokens: Tokens, acts: Tensor, W_dec: Tensor, x_hat: Tensor) -> TruthMetrics:
    """Returns all metrics of one SAE.

    Args:
        truth: the known features.
        tokens: held-out; for every parent, at least one child must be active somewhere in them.
        acts: (num_tokens, d_sae) at inference, in the units of `tokens.x`.
        W_dec: (d_sae, d_in), rows of unit norm.
        x_hat: (num_tokens, d_in).
    """
    active, on = is_active(acts).float(), (tokens.magnitudes > 0).float()
    f1 = f1_scores(active, on)
    best = f1.argmax(0)
    best_f1 = f1.amax(0)
    families = _families(truth)
    absorbed, half, fraction = _absorption(families, truth, tokens, acts, W_dec, best)
    pair_parents = families.parents[families.pair_parent]
    leak = (W_dec[best[families.child]] * families.duals[families.pair_parent]).sum(1)
    hedging = (W_dec[best[pair_parents]] * families.child_duals).sum(1)
    near = W_dec @ truth.directions[families.parents].T > SPLIT_COSINE
    often = active.T @ on[:, families.parents] > SPLIT_RATE * on[:, families.parents].sum(0)
    near[best[families.child], families.pair_parent] = False
    alive = active.any(0)
    return TruthMetrics(
        l0=float(active.sum(1).mean()),
        fvu=float((tokens.x - x_hat).square().sum() / (tokens.x - tokens.x.mean(0)).square().sum()),
        mcc=recovery(W_dec, truth.directions),
        f1=float(best_f1.mean()),
        f1_parents=_mean(best_f1[families.parents]),
        absorbed=absorbed,
        absorbed_half=half,
        absorbed_fraction=fraction,
        leak=_mean(leak.relu()),
        splitting=_mean((near & often).sum(0).float()),
        hedging=_mean(hedging.relu()),
        dead=float((~alive).float().mean()),
        max_cosine=_max_cosine(W_dec[alive]),
    )


def recovery(W_dec: Tensor, directions: Tensor) -> float:
    """Returns the MCC, mean |cosine| over the assignment that maximises it; (d_sae, d_in), (num_features, d_in)."""
    cosines = (normalize(W_dec, dim=1) @ normalize(directions, dim=1).T).abs().double().cpu().numpy()
    latents, features = linear_sum_assignment(cosines, maximize=True)
    return float(cosines[latents, features].mean())


def f1_scores(active: Tensor, on: Tensor) -> Tensor:
    """Returns the F1 of every latent as a detector of every feature, (d_sae, num_features).

    Args:
        active: (num_tokens, d_sae) of 0 and 1.
        on: (num_tokens, num_features) of 0 and 1.
    """
    both = active.T @ on
    either = active.sum(0).unsqueeze(1) + on.sum(0)
    return 2 * both / either.clamp_min(1)


def _families(truth: Truth) -> _Families:
    duals, pair_parent, child, child_duals = [], [], [], []
    for row, parent in enumerate(truth.parents.tolist()):
        children = truth.children(parent)
        members = torch.cat([children.new_tensor([parent]), children])
        dual = torch.linalg.pinv(truth.directions[members].double()).T.float()
        duals.append(dual[0])
        child_duals.append(dual[1:])
        child.append(children)
        pair_parent.append(torch.full_like(children, row))
    if not duals:
        empty = truth.parent.new_zeros(0)
        return _Families(empty, truth.bias.new_zeros(0, truth.d_in), empty, empty, truth.bias.new_zeros(0, truth.d_in))
    return _Families(
        truth.parents, torch.stack(duals), torch.cat(pair_parent), torch.cat(child), torch.cat(child_duals)
    )


def _absorption(
    families: _Families, truth: Truth, tokens: Tokens, acts: Tensor, W_dec: Tensor, best: Tensor
) -> tuple[float, float, float]:
    """Returns absorbed, absorbed_half and absorbed_fraction, means over parents of means over the parent's tokens."""
    parents = families.parents
    magnitude = tokens.magnitudes[:, parents]  # (num_tokens, num_parents)
    along = W_dec @ families.duals.T  # (d_sae, num_parents)
    own = best[parents]
    main = acts[:, own] * along[own, torch.arange(len(parents))]
    # No feature of the family but p itself has a component along e_p.
    outside = tokens.magnitudes @ (truth.directions @ families.duals.T) - magnitude
    others = acts @ along - main - outside
    child_on = torch.zeros_like(magnitude).index_add_(1, families.pair_parent, tokens.magnitudes[:, families.child])
    counted = (magnitude > 0) & (child_on > 0)
    carried = others > CARRIED * magnitude
    share = others.relu() / torch.maximum(main.relu() + others.relu(), magnitude).clamp_min(1e-12)
    values = (carried & (acts[:, own] == 0), carried & (main < HALF * magnitude), share)
    absorbed, half, fraction = (_mean((value * counted).sum(0) / counted.sum(0)) for value in values)
    return absorbed, half, fraction


def _max_cosine(rows: Tensor) -> float:
    if len(rows) < 2:
        return 0.0
    return float((rows @ rows.T).fill_diagonal_(-1).amax(1).mean())


def _mean(values: Tensor) -> float:
    """Returns the mean, 0 if there are no values: a world without families has no absorption."""
    return float(values.mean()) if len(values) else 0.0
