"""Stability: how much of its dictionary an SAE shares with those of other seeds, above what chance shares."""
