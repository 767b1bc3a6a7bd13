"""Rules that a run is judged by, one group a file; docs/health.md lists them."""
