"""The metrics, one folder each; every metric subclasses `Metric` in `base.py`."""
