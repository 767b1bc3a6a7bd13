"""Held-out windows on which chosen latents are active, and others, on which they are silent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.subject import Subject


@dataclass(frozen=True)
class Window:
    """Some tokens in a row, and one latent's activations on them."""

    ids: np.ndarray  # (window,) token ids
    acts: np.ndarray  # (window,) float32; 0 at special tokens, which the SAE does not read


@dataclass(frozen=True)
class LatentWindows:
    """Windows of one latent, from documents that are shown and from others, by which the explanation is tested."""

    latent: int
    shown: tuple[Window, ...]
    active: tuple[Window, ...]
    silent: tuple[Window, ...]


@dataclass(frozen=True)
class WindowedActs:
    """Every activation of an SAE on some held-out contexts, which are cut into windows of equal length."""

    ids: np.ndarray  # (num_windows, window)
    is_shown: np.ndarray  # (num_windows,) bool: of the documents from which examples are shown
    has_tokens: np.ndarray  # (num_windows,) bool: of ordinary tokens of one document alone
    latent: np.ndarray  # (num_active,) ascending
    window: np.ndarray  # (num_active,)
    position: np.ndarray  # (num_active,) in the window
    act: np.ndarray  # (num_active,)

    def entries(self, latent: int) -> slice:
        """Returns where the activations of a latent are."""
        return slice(*np.searchsorted(self.latent, [latent, latent + 1]))

    def windows(self, latent: int, numbers: Sequence[int]) -> tuple[Window, ...]:
        """Returns the windows with these numbers, with the latent's activations."""
        entries = self.entries(latent)
        acts = np.zeros((len(numbers), self.ids.shape[1]), np.float32)
        row = {number: index for index, number in enumerate(numbers)}
        for number, position, act in zip(self.window[entries], self.position[entries], self.act[entries], strict=True):
            if number in row:
                acts[row[number], position] = act
        return tuple(Window(self.ids[number], acts[index]) for number, index in row.items())


@torch.no_grad()
def windowed_acts(subject: Subject, testbed: Testbed, num_contexts: int, window: int) -> WindowedActs:
    """Encodes held-out contexts; documents of even number are shown, the others tested."""
    parts: list[tuple[np.ndarray, ...]] = []
    ids, shown, ordinary, num_windows = [], [], [], 0
    for batch in testbed.batches(num_contexts):
        acts = subject.encode_sparse(batch.x[batch.keep])
        rows = batch.keep.nonzero().cpu().numpy()[acts.pattern.rows.cpu().numpy()]  # (num_active, 2): context, position
        per_context = batch.ids.shape[1] // window
        inside = rows[:, 1] < per_context * window
        number = num_windows + rows[:, 0] * per_context + rows[:, 1] // window
        entries = (acts.pattern.columns.cpu().numpy(), number, rows[:, 1] % window, acts.values.float().cpu().numpy())
        parts.append(tuple(each[inside] for each in entries))
        cut = (slice(None), slice(per_context * window))
        shape = (-1, window)
        ids.append(batch.ids[cut].reshape(shape).cpu().numpy())
        shown.append(batch.documents[cut].reshape(shape)[:, 0].cpu().numpy() % 2 == 0)
        documents = batch.documents[cut].reshape(shape)
        within_one = (documents == documents[:, :1]).all(1)
        ordinary.append((batch.keep[cut].reshape(shape).all(1) & within_one).cpu().numpy())
        num_windows += len(batch.ids) * per_context
    latent, number, position, act = (np.concatenate(each) for each in zip(*parts, strict=True))
    order = np.lexsort((position, number, latent))
    return WindowedActs(
        np.concatenate(ids),
        np.concatenate(shown),
        np.concatenate(ordinary),
        *(each[order] for each in (latent, number, position, act)),
    )


def choose(acts: WindowedActs, num_latents: int, num_shown: int, num_tested: int, seed: int) -> list[LatentWindows]:
    """Draws latents at random among those with enough windows to be shown and tested, and their windows.

    Half of the windows that are shown are those with the strongest activations; the others, like those of the test,
    are drawn at random.
    """
    rng = np.random.default_rng(seed)
    chosen: list[LatentWindows] = []
    for latent in rng.permutation(np.unique(acts.latent)).tolist():
        if len(chosen) == num_latents:
            break
        windows = _windows_of(acts, latent, num_shown, num_tested, rng)
        if windows is not None:
            chosen.append(windows)
    return chosen


def _windows_of(
    acts: WindowedActs, latent: int, num_shown: int, num_tested: int, rng: np.random.Generator
) -> LatentWindows | None:
    entries = acts.entries(latent)
    largest = np.zeros(len(acts.ids), np.float32)
    np.maximum.at(largest, acts.window[entries], acts.act[entries])
    usable = acts.has_tokens
    to_show = np.flatnonzero(usable & acts.is_shown & (largest > 0))
    active, silent = (np.flatnonzero(usable & ~acts.is_shown & on) for on in (largest > 0, largest == 0))
    if len(to_show) < num_shown or min(len(active), len(silent)) < num_tested:
        return None
    strongest = to_show[np.argsort(-largest[to_show], kind="stable")][: num_shown // 2]
    others = rng.choice(np.setdiff1d(to_show, strongest), num_shown - len(strongest), replace=False)
    tested = [rng.choice(each, num_tested, replace=False) for each in (active, silent)]
    shown = np.concatenate([strongest, others])
    return LatentWindows(latent, *(acts.windows(latent, numbers.tolist()) for numbers in (shown, *tested)))
