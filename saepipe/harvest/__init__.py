"""Text to tokens to activations to shards: a single pass of the language model, cached for all later runs."""

from saepipe.data.terminal.stage import callable_stage

callable_stage(__name__)
