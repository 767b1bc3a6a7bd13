"""A run's folder: begun, logged to, checkpointed, sealed, opened, imported and exported."""
