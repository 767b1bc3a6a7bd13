"""Batches to sparse autoencoders: many variants, one stream of activations."""

from saepipe.data.terminal.stage import callable_stage

# Train imports nothing that knows a language model, yet the last steps of a run may need one (`kl_tail`), and so may
# its rows (`stream`). A call by a user, from Python or the command line, enters here; so here alone evaluate's models
# are bound to it, by name. Their module is imported once a run asks for it. `train.run.train` itself takes whatever
# fits the protocol.
callable_stage(
    __name__,
    open_tail_models="saepipe.evaluate.model.tail_models:TailModels",
    open_stream="saepipe.evaluate.streaming.run:open_stream",
)
