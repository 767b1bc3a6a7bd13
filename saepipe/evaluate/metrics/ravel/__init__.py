"""RAVEL: do an SAE's latents carry one attribute of an entity and leave its others alone?

The task is from Huang et al. 2024 (arXiv 2402.17700); the learned mask over latents is SAEBench's.
"""
