"""Batches to sparse autoencoders: many variants, one stream of activations."""

from saepipe.data.terminal.stage import callable_stage

callable_stage(__name__)
