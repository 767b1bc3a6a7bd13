"""Unlearning: does clamping latents of one field make the model forget that field and keep the others?

The procedure is from Farrell et al. 2024 (arXiv 2410.19278); the score is SAEBench 0.6.0's.
"""
