"""Can an SAE be used to make a model forget one field of knowledge and keep the others? (Farrell et al. 2024, arXiv
2410.19278; the score is SAEBench 0.6.0's.)"""
