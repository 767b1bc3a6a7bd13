"""Random feature stores: well-formed, of any width, without a model or a cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from helpers.made_results import write_run
from saepipe.data.folders import artifact
from saepipe.evaluate.features.store import FOLDER, StoreInfo, window_start
from saepipe.evaluate.features.write_store import write_features

Arrays = dict[str, np.ndarray]

WORDS = ["the", " cat", " sat", " on", " mat", "\n", " café", "ing", " <b>", '"quoted"']


def write_store(
    folder: Path,
    d_sae: int = 32,
    *,
    d_in: int = 16,
    seed: int = 0,
    num_top: int = 16,
    num_quantiles: int = 4,
    per_quantile: int = 4,
    window: int = 32,
    context_size: int = 64,
    num_contexts: int = 200,
    vocab_size: int = 500,
    num_neighbours: int = 8,
    num_logits: int = 10,
    no_logits: str | None = None,
    heat: float = 3.0,
) -> Path:
    """Writes a finished run `<variant>/seed-<n>` with a random decoder and a random store; every tenth latent is dead.

    If `num_logits` is 0 or `no_logits` gives a reason, the store has no logits. `heat` is the scale of activations.
    """
    rng = np.random.default_rng(seed)
    run = write_run(folder, d_sae=d_sae)
    no_logits = no_logits or (None if num_logits else "num_logits is 0")
    slots, num_tokens = num_top + num_quantiles * per_quantile, num_contexts * (context_size - 1)
    dead = np.arange(d_sae) % 10 == 9
    arrays = {
        "decoder_norm": _write_decoder(run, d_sae, d_in, rng),
        **_figures(dead, slots, num_tokens // 4, heat, rng),
        **_examples(dead, num_top, slots, window, (num_contexts, context_size), rng),
        **_contexts((num_contexts, context_size), vocab_size, rng),
        **_related(dead, num_neighbours, rng),
        **_firings(dead, num_contexts * context_size, rng),
        **({} if no_logits else _logits(d_sae, num_logits, vocab_size, rng)),
    }
    info = StoreInfo(
        variant=folder.parent.name,
        seed=int(folder.name.removeprefix("seed-")),
        run=(run / artifact.COMMITTED).read_text().strip(),
        cache="c",
        hook="blocks.1.hook_resid_post",
        model={"id": "toy", "revision": None},
        dataset={"source": "toy", "revision": None},
        d_in=d_in,
        d_sae=d_sae,
        context_size=context_size,
        split="train",
        num_tokens=num_tokens,
        num_contexts=num_contexts,
        num_dead=int(dead.sum()),
        coactive_tokens=num_tokens,
        num_top=num_top,
        num_quantiles=num_quantiles,
        per_quantile=per_quantile,
        window=window,
        firing_share=1.0,
        no_logits=no_logits,
    )
    texts = {0: "<bos>"} | {token: _word(token) for token in range(1, vocab_size)}
    write_features(run / FOLDER, info, arrays, texts, {"made": "up", "seed": seed})
    return run


def _figures(dead: np.ndarray, low: int, high: int, heat: float, rng: np.random.Generator) -> Arrays:
    """Returns figures of latents; those that are not dead are active on `low` to `high` tokens."""
    num_active = np.where(dead, 0, rng.integers(low, high, len(dead)))
    max_act = np.where(dead, np.nan, heat * (1 + rng.random(len(dead)))).astype(np.float32)
    edges = (2.0 ** np.arange(-4, 4.25, 0.25)).astype(np.float32)
    counts = rng.multinomial(num_active, np.full(len(edges) - 1, 1 / (len(edges) - 1)))
    return {
        "num_active": num_active.astype(np.int64),
        "mean_act": (max_act / 3).astype(np.float32),
        "max_act": max_act,
        "histogram": counts.astype(np.int32),
        "histogram_edges": edges,
    }


def _examples(
    dead: np.ndarray, num_top: int, slots: int, window: int, contexts: tuple[int, int], rng: np.random.Generator
) -> Arrays:
    """Returns top examples from strong to weak, then sampled ones from weak to strong, each with its window."""
    d_sae, (num_contexts, context_size) = len(dead), contexts
    row = np.where(dead[:, None], -1, rng.integers(0, num_contexts, (d_sae, slots))).astype(np.int32)
    position = rng.integers(1, context_size, (d_sae, slots)).astype(np.int32)
    top, sample = -np.sort(-rng.random((d_sae, num_top))), np.sort(rng.random((d_sae, slots - num_top)))
    peak = np.concatenate([top, sample], axis=1)
    peak[:, :1] = 1
    window_heat = (rng.random((d_sae, slots, window), np.float32) ** 8 * peak[:, :, None]).astype(np.float16)
    start = np.clip(position - window * 2 // 3, 0, context_size - window)
    assert start[0, 0] == window_start(int(position[0, 0]), window, context_size)
    np.put_along_axis(window_heat, (position - start)[:, :, None], peak[:, :, None].astype(np.float16), axis=2)
    window_heat[:, :, 0][start == 0] = np.nan  # the window begins with the context's BOS
    return {"example_context": row, "example_position": position, "heat": window_heat}


def _contexts(shape: tuple[int, int], vocab_size: int, rng: np.random.Generator) -> Arrays:
    """Returns random tokens after a BOS; three contexts per document."""
    contexts = rng.integers(1, vocab_size, shape).astype(np.int32)
    contexts[:, 0] = 0
    number = np.arange(shape[0])
    documents = np.broadcast_to(number[:, None] // 3, shape).astype(np.int32)
    return {"contexts": contexts, "documents": documents, "context_ids": 5 * number.astype(np.int64)}


def _related(dead: np.ndarray, num: int, rng: np.random.Generator) -> Arrays:
    """Returns other latents with scores in descending order; dead latents have no coactive ones."""

    def related_latents(lowest: float) -> tuple[np.ndarray, np.ndarray]:
        index = (np.arange(len(dead))[:, None] + rng.integers(1, len(dead), (len(dead), num))) % len(dead)
        return index.astype(np.int32), -np.sort(-rng.uniform(lowest, 1, index.shape), axis=1).astype(np.float32)

    neighbours, cosine = related_latents(-0.2)
    coactive, score = related_latents(0.0)
    score[dead], coactive[dead] = np.nan, -1
    return {"neighbours": neighbours, "neighbour_cosine": cosine, "coactive": coactive, "coactive_score": score}


def _firings(dead: np.ndarray, num_tokens: int, rng: np.random.Generator) -> Arrays:
    """Returns random latents that are active on each of at most 400 tokens."""
    token = np.arange(min(num_tokens, 400), dtype=np.int64)
    alive = np.flatnonzero(~dead).astype(np.int32)
    active = rng.random((len(token), len(alive))) < 0.1
    _, column = np.nonzero(active)
    return {
        "firing_token": token,
        "firing_count": active.sum(axis=1).astype(np.int32),
        "firing_latent": alive[column],
        "firing_act": rng.random(len(column)).astype(np.float16),
    }


def _logits(d_sae: int, num: int, vocab_size: int, rng: np.random.Generator) -> Arrays:
    arrays: Arrays = {}
    for sign, factor in (("positive", 1), ("negative", -1)):
        arrays[f"{sign}_ids"] = rng.integers(1, vocab_size, (d_sae, num)).astype(np.int32)
        arrays[f"{sign}_values"] = (factor * -np.sort(-rng.random((d_sae, num)), axis=1)).astype(np.float32)
    return arrays


def _word(token: int) -> str:
    return WORDS[token] if token < len(WORDS) else f" word{token}"


def _write_decoder(run: Path, d_sae: int, d_in: int, rng: np.random.Generator) -> np.ndarray:
    """Adds weights with unit decoder rows to a run; returns the rows' norms, (d_sae,) float32."""
    W_dec = rng.standard_normal((d_sae, d_in), np.float32)
    W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
    zeros = {"b_enc": np.zeros(d_sae, np.float32), "b_dec": np.zeros(d_in, np.float32)}
    save_file(
        {"W_enc": np.ascontiguousarray(W_dec.T), "W_dec": W_dec, **zeros}, run / "sae" / "sae_weights.safetensors"
    )
    artifact.write_json(run / "sae" / "cfg.json", {"architecture": "standard", "d_in": d_in, "d_sae": d_sae})
    header, listed = artifact.read_manifest(run)
    files = artifact.digest_files(run, [*listed["files"], "sae/sae_weights.safetensors"])
    artifact.rewrite_manifest(run, [header, {"files": files}])
    artifact.commit(run)
    return np.linalg.norm(W_dec, axis=1)
