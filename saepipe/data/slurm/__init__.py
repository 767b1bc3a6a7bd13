"""Commands as jobs of Slurm: the batch script, its submission, and how a job that is out of time starts again."""
