"""The language model's part of an evaluation, run once for all SAEs and kept on disk."""
