"""A study from its question to its verdict: one YAML file, one command."""
