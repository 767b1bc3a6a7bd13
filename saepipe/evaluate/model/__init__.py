"""The language model's side of an evaluation, run once for all SAEs and kept on disk."""
