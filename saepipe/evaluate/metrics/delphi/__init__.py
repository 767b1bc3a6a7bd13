"""Explanations and scores that delphi made of an exported run, read back."""
