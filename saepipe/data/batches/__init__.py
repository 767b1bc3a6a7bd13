"""What streams from a cache: shuffled batches, decoded ahead or kept in memory, delivered to a device."""
