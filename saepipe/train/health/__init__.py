"""Rules that judge a run, one group per file; docs/health.md lists them."""
