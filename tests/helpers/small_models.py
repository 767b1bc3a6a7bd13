"""Settings of random transformers models that are small enough to be made in a test, and ids for them."""

from __future__ import annotations

import torch

IDS = torch.tensor([[2, 40, 41, 42, 43, 44, 45, 46], [2, 90, 91, 2, 93, 94, 95, 96]])
SMALL = {"vocab_size": 128, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
