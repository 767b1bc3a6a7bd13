"""Exports of a run for other tools: SAELens, dictionary_learning, sparsify, SAEBench, Neuronpedia and delphi."""
