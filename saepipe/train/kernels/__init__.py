"""Products of a sparse step on the active entries alone: definitions, and an implementation for each device."""
