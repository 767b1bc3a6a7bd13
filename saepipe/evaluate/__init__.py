from saepipe.data.stage import callable_stage

callable_stage(__name__)
