"""Finished runs on a Hugging Face hub: pushed with a model card, and pulled byte for byte."""
