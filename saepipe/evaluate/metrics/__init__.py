"""The metrics: one a file, each a member of the family in `base.py`."""
