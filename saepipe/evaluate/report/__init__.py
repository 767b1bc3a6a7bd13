"""Runs as one page: what was read of them (story), what is drawn (charts), in which order (sections), and the page."""
