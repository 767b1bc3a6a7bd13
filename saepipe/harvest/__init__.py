"""Text to tokens to activations to shards: one pass of the language model, kept for every later run."""

from saepipe.data.terminal.stage import callable_stage

callable_stage(__name__)
