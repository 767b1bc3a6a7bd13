"""A rolling cache: its first pools are kept, and each later pool exists only while a training needs it."""
