"""Verification of anything that saepipe made: finds it, compares it with its seals, and removes what can be remade."""
