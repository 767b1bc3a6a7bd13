"""Feature browser: find, read and compare every latent of some runs, from a local server or from files."""
