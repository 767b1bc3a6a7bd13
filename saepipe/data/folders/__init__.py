"""Sealed folders: artifacts, folders that appear as a whole, and the findings in health.json."""
