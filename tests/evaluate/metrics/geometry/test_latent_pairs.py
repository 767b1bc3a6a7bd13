"""Pair statistics compared with their definitions, and the coverage of their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from saepipe.evaluate.metrics.geometry.joint_firing import PairCounts
from saepipe.evaluate.metrics.geometry.latent_pairs import conditional, joint_stats, lifts, mean_conditional, mean_lift

pytestmark = pytest.mark.quick


def sample(num_pairs: int, num_documents: int = 60, tokens: int = 40, seed: int = 0) -> tuple[PairCounts, float, float]:
    """Simulates documents with topics: in one of four, the child is active often, but seldom together with the parent.

    Returns:
        The counts, and the true P(parent | child) and lift.
    """
    rng = np.random.default_rng(seed)
    topic = rng.random((num_documents, num_pairs)) < 0.25
    child_rate, given_child, alone = np.where(topic, 0.2, 0.02), np.where(topic, 0.3, 0.9), 0.1
    shape = (tokens, num_documents, num_pairs)
    child = rng.random(shape) < child_rate
    parent = rng.random(shape) < np.where(child, given_child, alone)
    p_child, p_both = 0.25 * 0.2 + 0.75 * 0.02, 0.25 * 0.2 * 0.3 + 0.75 * 0.02 * 0.9
    p_parent = p_both + alone * (1 - p_child)
    sums = [active.sum(0).astype(float) for active in (parent, child, parent & child)]
    return PairCounts(*sums, np.full(num_documents, float(tokens))), p_both / p_child, p_both / p_child / p_parent


def test_definitions() -> None:
    counts, _, _ = sample(3)
    statistics, num_tokens = joint_stats(counts), counts.tokens.sum()
    p_i, p_j, p_both = (column.sum(0) / num_tokens for column in (counts.i, counts.j, counts.both))
    np.testing.assert_allclose(statistics.lift, p_both / (p_i * p_j))
    np.testing.assert_allclose(statistics.j_given_i, p_both / p_i)
    np.testing.assert_allclose(statistics.conditional, p_both / np.minimum(p_i, p_j))
    np.testing.assert_allclose([lift.value for lift in lifts(counts)], statistics.lift)
    assert mean_lift(counts).value == pytest.approx(statistics.lift.mean())
    assert mean_conditional(counts).value == pytest.approx(statistics.conditional.mean())


def test_intervals_of_single_pairs_cover_the_truth() -> None:
    """Coverage is 95 % up to the noise of 400 simulated pairs; Wilson over tokens, as if independent, falls short."""
    counts, true_conditional, true_lift = sample(400)
    pairs = range(400)
    estimates = [conditional(counts.both[:, k], counts.j[:, k]) for k in pairs]
    assert 0.91 < np.mean([e.low < true_conditional < e.high for e in estimates]) < 0.99
    assert 0.91 < np.mean([e.low < true_lift < e.high for e in lifts(counts)]) < 0.99
    naive = [
        stats.binomtest(int(counts.both[:, k].sum()), int(counts.j[:, k].sum())).proportion_ci(0.95, "wilson")
        for k in pairs
    ]
    assert np.mean([e.low < true_conditional < e.high for e in naive]) < 0.9


@pytest.mark.parametrize("mean", [mean_conditional, mean_lift])
def test_interval_of_a_mean_against_the_jackknife(mean) -> None:
    counts, _, _ = sample(20)
    num = len(counts.tokens)
    without = [np.delete(np.arange(num), d) for d in range(num)]
    values = [mean(PairCounts(counts.i[d], counts.j[d], counts.both[d], counts.tokens[d])).value for d in without]
    error = np.sqrt((num - 1) * np.var(values))
    estimate = mean(counts)
    assert (estimate.high - estimate.low) / 2 == pytest.approx(stats.t.ppf(0.975, num - 1) * error, rel=0.1)
    assert (estimate.high + estimate.low) / 2 == pytest.approx(estimate.value)


def test_one_token_per_document_gives_wilsons_interval() -> None:
    given, both = np.ones(300), (np.arange(300) < 75).astype(float)
    estimate, wilson = conditional(both, given), stats.binomtest(75, 300).proportion_ci(0.95, "wilson")
    assert (estimate.low, estimate.high) == pytest.approx((wilson.low, wilson.high), rel=0.01)


def test_dead_latents_have_a_reason() -> None:
    ones, zeros = np.ones((4, 1)), np.zeros((4, 1))
    counts = PairCounts(ones, zeros, zeros, np.full(4, 10.0))
    undefined = (mean_lift(counts), mean_conditional(counts), lifts(counts)[0], conditional(zeros[:, 0], zeros[:, 0]))
    for estimate in undefined:
        assert estimate.value is None
        assert "never active" in str(estimate.reason)
    both = PairCounts(*(np.hstack([column, ones]) for column in (ones, zeros, zeros)), counts.tokens)
    assert mean_lift(both).value == pytest.approx(10)  # of the active pair; both latents are active on 4 of 40 tokens


def test_a_pair_that_is_never_active_together() -> None:
    """Documents with equal shares count as one token each; the upper limit is the lower one of the two sides."""
    i, j = np.repeat([[3.0], [0.0]], [10, 30], axis=0), np.repeat([[0.0], [2.0]], [10, 30], axis=0)
    counts = PairCounts(i, j, 0 * i, np.full(40, 5.0))
    [lift], given_i, given_j = lifts(counts), conditional(0 * i[:, 0], i[:, 0]), conditional(0 * j[:, 0], j[:, 0])
    for given, num_documents in ((given_i, 10), (given_j, 30)):
        t = stats.t.ppf(0.975, num_documents - 1)
        assert (given.value, given.low) == (0, 0)
        assert given.high == pytest.approx(t**2 / (num_documents + t**2))
    assert (lift.value, lift.low) == (0, 0)
    assert lift.high == pytest.approx(min(given_i.high / (60 / 200), given_j.high / (30 / 200)))
    assert given_i.high / (60 / 200) > given_j.high / (30 / 200)


def test_one_document_has_no_interval() -> None:
    both = np.array([[3.0]])
    counts = PairCounts(both + 2, both + 1, both, np.array([20.0]))
    defined = (mean_lift(counts), mean_conditional(counts), lifts(counts)[0], conditional(both[:, 0], both[:, 0] + 1))
    for estimate in defined:
        assert estimate.value is not None
        assert estimate.low is estimate.high is None
