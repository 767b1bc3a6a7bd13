"""The products of a sparse step, on the active entries alone: definitions, and what runs them on each device."""
