"""A harvest and a training at the same time: what `cache: stream` in a train config starts."""
