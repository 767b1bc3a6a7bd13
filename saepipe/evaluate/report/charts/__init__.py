"""Charts of the report, one file per section of the page."""
