"""Texts that a model must continue by given tokens, all of which one forward pass judges.

Greedy decoding continues a prompt by some tokens if and only if each of them is the likeliest after the prompt and
those before it. So a pass over the prompt and the tokens tells what decoding would do, without decoding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

UNLABELLED = -100
"""Marks positions whose next token does not count."""


def forced(prompt: Sequence[int], target: Sequence[int]) -> Tensor:
    """Returns the ids to run, (seq,) int64: the prompt, then the target without its last token."""
    return torch.tensor([*prompt, *target[:-1]], dtype=torch.int64)


def labels_for(lengths: Tensor, targets: Sequence[Tensor]) -> Tensor:
    """Returns the token that must follow each position, (batch, seq) int64, UNLABELLED where any may.

    Args:
        lengths: (batch,) lengths of sequences from `forced`, padded on the right.
        targets: their targets, one (num_target_tokens,) each.
    """
    labels = torch.full((len(targets), int(lengths.max())), UNLABELLED)
    for row, length, target in zip(labels, lengths.tolist(), targets, strict=True):
        row[length - len(target) : length] = target
    return labels


def continues(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns whether each text is continued by its whole target, (batch,) bool on the CPU.

    Args:
        logits: (batch, seq, vocab).
        labels: (batch, seq) from `labels_for`.
    """
    labels = labels.to(logits.device)
    return ((logits.argmax(dim=-1) == labels) | (labels == UNLABELLED)).all(dim=1).cpu()


def target_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the mean over texts of -log p(target | prompt) in nats, a scalar float32; arguments as `continues`."""
    labels = labels.to(logits.device)
    labelled = labels != UNLABELLED
    return cross_entropy(logits[labelled].float(), labels[labelled], reduction="sum") / len(labels)
