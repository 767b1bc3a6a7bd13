"""The charts of the report, a file for each section of the page."""
