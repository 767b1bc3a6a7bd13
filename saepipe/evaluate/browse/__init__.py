"""The feature browser: every latent of some runs, found, read and compared; on this machine, or as files."""
