"""Every quantity of a feature store against brute force over all activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from saepipe.data.errors import CorruptDataError
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.features import gather_stores
from saepipe.evaluate.features.firing_statistics import EDGES
from saepipe.evaluate.features.store import FeatureStore, window_start
from saepipe.evaluate.features.token_numbers import uniform
from saepipe.train.rundir.finished_run import Run
from saepipe.train.rundir.load import load

SIZE = 16
Build = Callable[..., list[FeatureStore]]


def all_activations(store: FeatureStore, run: Run, world: Any, acts_of: Any) -> np.ndarray:
    """Returns all activations, (num_contexts, context_size, d_sae); NaN where no token was read."""
    x = world.first(store.info.settings["num_tokens"])
    acts = acts_of(run, x)
    assert store.info.num_tokens == (~np.isnan(acts[..., 0])).sum()
    assert store.info.num_contexts == (~np.isnan(acts[..., 0])).any(axis=1).sum()
    return acts


def check_statistics(store: FeatureStore, acts: np.ndarray) -> None:
    active = acts > 0
    num = active.sum(axis=(0, 1))
    np.testing.assert_array_equal(store.columns["num_active"], num)
    np.testing.assert_array_equal(store.columns["density"], num / store.info.num_tokens)
    for latent in range(acts.shape[2]):
        stored, values = store.latent(latent), acts[..., latent][active[..., latent]]
        assert stored.num_active == len(values)
        if len(values) == 0:
            assert stored.dead
            assert (stored.mean_act, stored.max_act, stored.histogram) == (None, None, ([], []))
            assert stored.examples == stored.coactive == []
            continue
        assert stored.max_act == values.max()
        assert stored.mean_act == pytest.approx(values.mean(dtype=np.float64))
        edges, counts = stored.histogram
        assert sum(counts) == len(values)
        np.testing.assert_array_equal(counts, np.histogram(values.clip(EDGES[0]), np.array(edges))[0])
        assert set(edges) <= set(EDGES.tolist())
    assert store.info.num_dead == (num == 0).sum()


def texts_around(world: Any) -> np.ndarray:
    """Returns the number of the text around each token, (num_contexts, context_size): equal numbers, equal text."""
    numbers: dict[tuple[int, ...], int] = {}
    around = np.zeros(world.contexts.shape, int)
    for context, position in np.ndindex(*around.shape):
        document = world.documents[context, position]
        text = [
            world.contexts[context, there] if 0 <= there < SIZE and world.documents[context, there] == document else -1
            for there in range(position - 10, position + 6)
        ]
        around[context, position] = numbers.setdefault(tuple(text), len(numbers))
    return around


def distinct(tokens: np.ndarray, around: np.ndarray, num: int, shown: Sequence[Any] = ()) -> list[tuple[int, int]]:
    """Returns the first `num` tokens (any, 2) of contexts and texts that neither they nor those in `shown` repeat."""
    _, first = np.unique(tokens[:, 0], return_index=True)
    best_of_context = tokens[np.sort(first)]
    contexts, texts = {c for c, _ in shown}, {around[token] for token in shown}
    chosen: dict[int, tuple[int, int]] = {}
    for context, position in best_of_context.tolist():
        text = around[context, position]
        if text not in chosen:
            chosen[text] = (context, position)
    return [token for text, token in chosen.items() if text not in texts and token[0] not in contexts][:num]


def check_examples(store: FeatureStore, acts: np.ndarray, world: Any) -> None:
    """Checks the top by activation, the sample by random numbers, and windows token by token."""
    num_top, num_sample = 3, 4
    size, around = acts.shape[1], texts_around(world)
    numbers = uniform(np.arange(acts[..., 0].size), store.info.settings["seed"]).reshape(acts.shape[:2])
    for latent in range(acts.shape[2]):
        of_latent, examples = acts[..., latent], store.latent(latent).examples
        active = np.argwhere(np.nan_to_num(of_latent) > 0)
        top = [(example.context, example.position) for example in examples if example.group == "top"]
        strongest = active[np.argsort(-of_latent[tuple(active.T)], kind="stable")]
        assert top == distinct(strongest, around, num_top)

        sample = [example for example in examples if example.group != "top"]
        drawn = active[np.argsort(-numbers[tuple(active.T)])]
        assert {(example.context, example.position) for example in sample} == set(
            distinct(drawn, around, num_sample, top)
        )
        strengths = [of_latent[example.context, example.position] for example in sample]
        assert strengths == sorted(strengths)
        if len(sample) == num_sample:
            assert [example.group for example in sample] == ["q1", "q1", "q2", "q2"]

        for example in examples:
            start = window_start(example.position, 6, size)
            assert (example.start, example.peak) == (start, example.position - start)
            expected = of_latent[example.context, start : start + 6]
            stored = np.array([np.nan if act is None else act for act in example.acts], np.float32)
            np.testing.assert_array_equal(np.isnan(stored), np.isnan(expected))
            largest = np.nanmax(of_latent)
            np.testing.assert_allclose(stored, expected, rtol=1e-3, atol=1e-6 * largest)  # float16 of the largest
            assert stored[example.peak] > 0
            assert example.document == world.documents[example.context, example.position]
            assert example.tokens == [f"[{token}]" for token in world.contexts[example.context, start : start + 6]]


def check_coactive(store: FeatureStore, acts: np.ndarray, num: int = 3) -> None:
    active = np.nan_to_num(acts).reshape(-1, acts.shape[2]) > 0
    for latent in range(active.shape[1]):
        both = (active & active[:, [latent]]).sum(axis=0)
        either = (active | active[:, [latent]]).sum(axis=0)
        jaccard = np.where(both > 0, both / np.maximum(either, 1), 0)
        jaccard[latent] = 0
        coactive = store.latent(latent).coactive
        best = np.sort(jaccard)[::-1][:num]
        np.testing.assert_allclose([score for _, score in coactive], best[best > 0], rtol=1e-6)
        for other, score in coactive:
            assert jaccard[other] == pytest.approx(score)


def check_all(store: FeatureStore, run: Run, world: Any, acts_of: Any) -> None:
    acts = all_activations(store, run, world, acts_of)
    check_statistics(store, acts)
    check_examples(store, acts, world)
    check_coactive(store, acts)


@pytest.mark.parametrize("profile", ["lossless", "none", "int8"])
def test_a_store_matches_brute_force(profile: Any, world_of: Any, build: Build, make_run: Any, acts_of: Any) -> None:
    world, run = world_of(profile), make_run(1)
    (store,) = build([run], world)
    check_all(store, run, world, acts_of)
    assert store.latent(11).dead
    assert store.info.num_dead >= 1
    nans = [act is None for latent in range(12) for example in store.latent(latent).examples for act in example.acts]
    assert 0.02 < np.mean(nans) < 0.5, "some windows contain tokens that have no row"


@pytest.mark.parametrize("num_tokens", [1, 7, 250, 256, 300, 700])
def test_a_limited_number_of_tokens(num_tokens: int, world: Any, build: Build, make_run: Any, acts_of: Any) -> None:
    """Ends in the middle of a context, in the middle of a pool, and at its end."""
    run = make_run(2)
    (store,) = build([run], num_tokens=num_tokens)
    assert store.info.num_tokens == num_tokens
    check_all(store, run, world, acts_of)


def test_contexts_are_whole_whatever_the_chunk_size(
    build: Build, make_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pools cut contexts; chunks of one context, of some and of a whole pool give the same bytes."""
    run, stores = make_run(3), []
    for rows in (13, 40, 2048):  # SAEs of 12 latents
        monkeypatch.setattr(gather_stores, "tokens_at_a_time", partial(max, rows))
        (store,) = build([run], out=str(rows))
        stores.append(store.folder)
    first, *others = [(folder / "features.safetensors").read_bytes() for folder in stores]
    assert all(other == first for other in others)


def test_heldout_contexts(world: Any, build: Build, make_run: Any, acts_of: Any) -> None:
    """The held-out contexts have the same text here, so the same checks hold."""
    run = make_run(4)
    (store,) = build([run], split="heldout")
    check_all(store, run, world, acts_of)
    assert store.info.split == "heldout"


def test_stores_built_together_equal_those_built_alone(build: Build, make_run: Any) -> None:
    runs = [make_run(5), make_run(6, d_sae=40)]
    together = build(runs, out="together")
    for run, store in zip(runs, together, strict=True):
        (alone,) = build([run], out="alone")
        for name in ("features.safetensors", "info.json", "tokens.json", "COMMITTED"):
            assert (alone.folder / name).read_bytes() == (store.folder / name).read_bytes(), name


def test_another_seed_gives_another_sample_and_the_same_top(build: Build, make_run: Any) -> None:
    run = make_run(7)
    (first,), (other,) = build([run], out="one"), build([run], out="other", seed=1)
    np.testing.assert_array_equal(first.peak_ids, other.peak_ids)
    assert (first.arrays["example_context"][:, 3:] != other.arrays["example_context"][:, 3:]).any()


def test_the_sample_is_uniform(build: Build, make_run: Any, acts_of: Any, world: Any) -> None:
    """Over many seeds, the mean of a latent's sampled activations is that of all its activations."""
    run = make_run(8)
    acts = acts_of(run, world.x)
    latent = int(np.argmax((acts > 0).sum(axis=(0, 1))))
    values = acts[..., latent][acts[..., latent] > 0]
    sampled: list[float] = []
    for seed in range(12):
        (store,) = build([run], seed=seed)
        sample = [example for example in store.latent(latent).examples if example.group != "top"]
        sampled += [acts[example.context, example.position, latent] for example in sample]
    error = values.std() / np.sqrt(len(sampled))
    assert abs(np.mean(sampled) - values.mean()) < 4 * error


def test_pairs_are_counted_on_fewer_tokens_if_there_are_too_many(
    build: Build, make_run: Any, acts_of: Any, world: Any
) -> None:
    run = make_run(9)
    acts = acts_of(run, world.x)
    pairs = ((acts > 0).sum(axis=2) ** 2).sum()
    (store,) = build([run], coactive_pairs=int(pairs // 36))
    numbers = uniform(np.arange(acts[..., 0].size), 0).reshape(acts.shape[:2])
    chosen = np.where((numbers < 0.25)[..., None], acts, np.nan)
    assert store.info.coactive_tokens == (~np.isnan(chosen[..., 0])).sum()
    check_coactive(store, chosen)
    (whole,) = build([run], coactive_pairs=int(-(-pairs // 12)))
    assert whole.info.coactive_tokens == whole.info.num_tokens


@pytest.mark.parametrize("firing_entries", [5, 10_000])
def test_firings_are_all_active_latents_of_random_tokens(
    firing_entries: int, build: Build, make_run: Any, acts_of: Any, world: Any
) -> None:
    run = make_run(17)
    (store,) = build([run], firing_entries=firing_entries)
    acts = acts_of(run, world.x).reshape(-1, 12)
    numbers, share, firings = uniform(np.arange(len(acts)), 0), store.info.firing_share, store.firings
    assert firings is not None
    assert (share == 1) == (firing_entries == 10_000)
    chosen = np.flatnonzero((numbers < share) & ~np.isnan(acts[:, 0]))
    np.testing.assert_array_equal(firings.token, chosen)
    token, latent = np.nonzero(acts[chosen] > 0)
    assert len(token) <= 12 * firing_entries
    np.testing.assert_array_equal(firings.latent, latent)
    np.testing.assert_array_equal(np.diff(firings.start), np.bincount(token, minlength=len(chosen)))
    largest = store.arrays["max_act"][latent]
    np.testing.assert_allclose(firings.act, acts[chosen][token, latent] / largest, rtol=1e-3, atol=1e-6)


def test_neighbours_match_the_full_matrix_of_cosines(build: Build, make_run: Any) -> None:
    run = make_run(10)
    (store,) = build([run])
    W_dec = load(run).W_dec.numpy().astype(np.float64)
    norm = np.linalg.norm(W_dec, axis=1, keepdims=True)
    unit = np.divide(W_dec, norm, out=np.zeros_like(W_dec), where=norm > 0)
    np.testing.assert_allclose(store.decoder, unit, atol=1e-6)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    cosines[:, 10] = -np.inf  # a zero row has no direction
    for latent in range(12):
        neighbours = store.latent(latent).neighbours
        expected = np.argsort(-cosines[latent])[:3] if latent != 10 else []
        assert [index for index, _ in neighbours] == list(expected)
        np.testing.assert_allclose(
            [c for _, c in neighbours], cosines[latent][expected] if latent != 10 else [], atol=1e-6
        )
    assert np.isnan(store.columns["top_neighbour_cosine"][10])


def test_fewer_latents_than_neighbours(build: Build, make_run: Any) -> None:
    (store,) = build([make_run(11, d_sae=3)], num_neighbours=8)
    assert [len(store.latent(latent).neighbours) for latent in range(3)] == [1, 0, 1]
    assert all(len(store.latent(latent).coactive) < 3 for latent in range(3))


def test_nan_activations_are_refused(build: Build, make_run: Any) -> None:
    run = make_run(12, damage=float("nan"))
    with pytest.raises(CorruptDataError, match="v12/seed-0 gives NaN"):
        build([run])
    assert not (run.path / "features" / "COMMITTED").exists()


def test_missing_logits_and_texts_are_reported(build: Build, make_run: Any) -> None:
    progress = Silent()
    (store,) = build([make_run(13)], progress=progress)
    assert store.latent(0).positive_logits is None
    assert store.info.no_logits == "no logits: there is no model"
    assert store.info.no_texts is not None
    assert "cannot be loaded" in store.info.no_texts
    assert [said.split(": ")[0] for said in progress.said] == ["features of v13/seed-0"] * 2
    (without,) = build([make_run(13)], num_logits=0)
    assert without.info.no_logits == "num_logits is 0"


def test_a_window_is_no_longer_than_a_context(build: Build, make_run: Any) -> None:
    (store,) = build([make_run(14)], window=100)
    assert store.info.window == 16
    assert {example.start for example in store.latent(0).examples} == {0}


def test_an_sae_whose_latents_are_all_dead_has_a_store(build: Build, make_run: Any) -> None:
    run = make_run(15)
    path = run.path / "sae" / "sae_weights.safetensors"
    weights = load_file(path)
    save_file(weights | {"b_enc": np.full(12, -1e6, np.float32)}, path)
    (store,) = build([run])
    assert store.info.num_dead == 12
    assert all(store.latent(latent).dead and not store.latent(latent).examples for latent in range(12))
    assert store.latent(0).neighbours, "neighbours do not depend on activations"
    assert store.search("[").size == 0


def test_no_more_pairs_are_counted_than_requested(build: Build, make_run: Any, acts_of: Any, world: Any) -> None:
    run = make_run(16)
    (store,) = build([run], coactive_pairs=1)
    numbers = uniform(np.arange(world.x[..., 0].size), 0).reshape(world.x.shape[:2])
    num_active = np.where(np.isnan(world.x[..., 0]), np.nan, (acts_of(run, world.x) > 0).sum(axis=2))
    shares = 0.5 ** np.arange(12)
    counted = next(
        num_active[(numbers < share) & ~np.isnan(num_active)] for share in shares if fits(share, numbers, num_active)
    )
    assert store.info.coactive_tokens == len(counted) < 100


def fits(share: float, numbers: np.ndarray, num_active: np.ndarray) -> bool:
    return bool(np.nansum(num_active[numbers < share] ** 2) <= 12)
