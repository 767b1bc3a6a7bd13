"""Core: reconstruction, sparsity, and what the model loses when it reads the reconstruction."""
