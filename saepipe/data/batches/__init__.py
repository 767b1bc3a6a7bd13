"""Shuffled batches from a cache, decoded ahead or kept in memory, and copied to a device."""
