from saepipe.data.terminal.stage import callable_stage

callable_stage(__name__)
