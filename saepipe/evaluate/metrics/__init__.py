"""The metrics, one folder each; every metric is a member of the family in `base.py`."""
