"""No pair penalty holds an array of d_sae x d_sae: each takes a step at 16,384 latents in little memory."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

D_SAE = 16_384
ALL_PAIRS = D_SAE**2 * 4  # bytes of one array of all pairs in float32: 1.1 GB
ALLOWED = 2**28  # address space in addition to that of the process before its first step

PENALTIES = [
    {"name": "absorption", "min_firings": 0, "min_expected_joint": 0},
    {"name": "balance"},
    {"name": "topk_orthogonality", "select": "both"},
    {"name": "orthogonality"},  # its hinge is the one of absorption, on the same neighbours
    {"name": "ortsae"},
    {"name": "c2r"},
    {"name": "random_pairs"},
]

STEPS = """
import json, resource, sys, torch
from saepipe.train.penalties.base import Penalty, StepContext
from saepipe.train.sae.dense_acts import DenseActs
from saepipe.train.schedule import settings_at

d_sae, allowed, penalties = json.loads(sys.argv[1])
d_in, batch, num_active = 16, 64, 48
torch.set_num_threads(1)
torch.manual_seed(0)
x = torch.randn(batch, d_in)
active = torch.rand(batch, d_sae).topk(num_active).indices
acts = torch.zeros(batch, d_sae).scatter(1, active, torch.rand(batch, num_active)).requires_grad_()
W_dec = torch.nn.functional.normalize(torch.randn(d_sae, d_in), dim=1).requires_grad_()
x @ x.T  # so that libraries allocate whatever they keep
in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + allowed, in_use + allowed))
if not penalties:
    W_dec @ W_dec.T
for settings in penalties:
    penalty = Penalty.parse({"weight": 1.0, **settings})
    # Penalties that search only for a statistic take a step without a search; the others search in the same way.
    step = int(penalty.name == "random_pairs" or getattr(penalty, "form", None) == "all_pairs")
    ctx = StepContext(
        x=x, target=x, latent_acts=DenseActs(pre_acts=acts, acts=acts, acts_sum=acts.sum(0), gate_acts=acts), x_hat=x,
        weights={"W_enc": W_dec.T, "b_enc": acts[0], "W_dec": W_dec, "b_dec": x[0]},
        threshold=None, tokens_since_fired=torch.zeros(d_sae, dtype=torch.int64),
        dead_after=1, any_dead=False, step=step, num_steps=2, uniform=torch.rand(d_sae),
    )
    result = penalty(ctx, penalty.init_state(d_in, d_sae), settings_at(penalty, step, 2))
    (gradient,) = torch.autograd.grad(result.value, [W_dec])
    print(json.dumps([float(result.statistics["num_pairs"]), float(gradient.norm())]))
"""

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the memory cap works on Linux only")


def run(penalties: list[dict[str, object]]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", STEPS, json.dumps([D_SAE, ALLOWED, penalties])]
    return subprocess.run(command, capture_output=True, text=True)


def test_every_pair_penalty_takes_a_step_at_16384_latents_under_the_cap() -> None:
    assert ALLOWED <= ALL_PAIRS / 4
    process = run(PENALTIES)
    assert process.returncode == 0, process.stderr[-2000:]
    results = [json.loads(line) for line in process.stdout.splitlines()]
    assert len(results) == len(PENALTIES)
    assert all(num_pairs > 0 and gradient > 0 for num_pairs, gradient in results)


def test_an_array_of_all_pairs_does_not_fit_under_the_cap() -> None:
    process = run([])
    assert process.returncode != 0
    assert "allocate" in process.stderr
