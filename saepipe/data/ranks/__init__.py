"""The processes that torchrun starts for one command, and what they say to each other."""
